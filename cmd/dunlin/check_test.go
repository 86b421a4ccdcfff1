package main

import (
	"os"
	"path/filepath"
	"testing"

	"dunlin/packaging"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckSaysWhatAFileAmountsTo(t *testing.T) {
	passwords := filepath.Join(t.TempDir(), "passwords")
	dunlin(t, "secret\n", "passwd", passwords, "meter").check(t, 0, "user meter added, "+passwords+" has 1\n", "")
	file := writeFile(t, "dunlin.yaml", `
data: /var/lib/dunlin
listeners:
  - address: 127.0.0.1:1883
  - address: 0.0.0.0:1884
    open: true
  - address: 0.0.0.0:1885
    redirect: {to: "broker.example:1883"}
auth: {passwords: `+passwords+`}
access:
  users:
    meter: {publish: ["meters/%c/#"]}
    ghost: {publish: ["x"]}
uplinks:
  - name: cloud
    endpoints: [mqtt://broker.example.com]
    client_id: g
    rules: [{from: "#"}]
`)
	dunlin(t, "", "check", file).check(t, 0, file+`: ok
  data      /var/lib/dunlin
  listener  127.0.0.1:1883, password needed
  listener  0.0.0.0:1884, no password needed
  listener  0.0.0.0:1885, sends everybody on to broker.example:1883
  users     1 in `+passwords+`
  access    rules for ghost, meter
  uplink    cloud to mqtt://broker.example.com:1883, 1 rule up, 0 rules down
`, "warning: "+file+":6:11: listeners.1.open: 0.0.0.0:1884 lets in everybody who can reach it, without a password\n"+
		"warning: access.users.ghost: there is no such user in "+passwords+"\n")
}

func TestCheckNamesAllFaults(t *testing.T) {
	file := writeFile(t, "dunlin.yaml", "log: {level: loud}\nlimits: {max_paket: 1KiB}\n")
	want := file + `:1:14: log.level: "loud" is not known; allowed: debug, info, warn, error` + "\n" +
		file + `:2:10: limits: unknown key "max_paket"; did you mean "max_packet"?` + "\n"
	dunlin(t, "", "check", file).check(t, 1, "", want)
	dunlin(t, "", "serve", "--config", file).check(t, 1, "", want)
}

func TestCheckReadsThePasswordFiles(t *testing.T) {
	broken := writeFile(t, "passwords", "# users\nmeter:plain\n")
	empty := writeFile(t, "cloud", "\n")
	file := writeFile(t, "dunlin.yaml", "auth: {passwords: "+broken+"}\nuplinks: [{name: a, endpoints: [mqtts://h], client_id: c, username: u, password_file: "+
		empty+", rules: [{from: x}]}]\n")
	dunlin(t, "", "check", file).check(t, 1, "", "dunlin check: …"+broken+"…2…\n"+
		"the password of uplink a is missing: the first line of "+empty+" is empty\n")
}

func TestCheckTakesOverrides(t *testing.T) {
	file := writeFile(t, "dunlin.yaml", "log: {level: loud}\n")
	dunlin(t, "", "check", file, "--set", "log.level=debug").check(t, 0, file+": ok\n…", "")
	dunlin(t, "", "check", file, "--set", "log.level=warm").check(t, 1, "",
		`--set log.level=warm: log.level: "warm" is not known; allowed: debug, info, warn, error`+"\n")
}

func TestSampleIsPrintedAndValid(t *testing.T) {
	r := dunlin(t, "", "check", "--sample")
	r.check(t, 0, string(packaging.Sample), "")
	file := writeFile(t, "dunlin.yaml", r.out)
	dunlin(t, "", "check", file).check(t, 0, file+": ok\n…", "")
}

func TestServeRefusesToOpenTheNetworkByMistake(t *testing.T) {
	dunlin(t, "", "serve", "--listen", ":1883").check(t, 1, "",
		"--listen :1883: listeners.0.address: :1883 can be reached from the network, and clients need no password; "+
			"allowed: with auth.passwords set, or with open: true if everybody may come in\n")
	dunlin(t, "", "serve", "--config", "/nowhere/dunlin.yaml").check(t, 1, "",
		"dunlin serve: the configuration cannot be read: open /nowhere/dunlin.yaml: no such file or directory\n")
}
