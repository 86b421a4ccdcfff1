package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// BinaryVariable is the environment variable that names a dunlin binary to test instead of one
// that is built from this source tree.
const BinaryVariable = "DUNLIN_BINARY"

var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryVariable); path != "" {
		return path, depend(path)
	}
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("process: internal error: no path of the source")
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	for _, dir := range []string{"cmd", "core", "platform", "storeforward", "uplink", "packaging"} {
		if err := depend(filepath.Join(root, dir)); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp("", "dunlin-binary-")
	if err != nil {
		return "", fmt.Errorf("process: %w", err)
	}
	built = dir
	binary := filepath.Join(dir, "dunlin")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", binary, "./cmd/dunlin")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("process: go build ./cmd/dunlin: %w\n%s", err, out)
	}
	return binary, nil
})

// depend looks at a file, or at each folder below one. The go command remembers what a test has
// looked at within its module, and gives no cached result once that has changed. (The tests in
// the module testbench/peers look outside of theirs: run them with -count=1.)
func depend(path string) error {
	return filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("process: %w", err)
		}
		return nil
	})
}

// Binary returns the path of the dunlin binary, which it builds once per test process. Call
// Cleanup before that ends.
func Binary() (string, error) { return build() }

// built is the folder that build has made, "" if none.
var built string

// Cleanup removes what Binary has built. TestMain calls it behind the tests.
func Cleanup() {
	if built != "" {
		os.RemoveAll(built)
	}
}

// Gateway is the configuration of a dunlin process.
type Gateway struct {
	Address string // host:port; a free loopback address if ""
	Socket  string // path of a unix socket beside it, "" = none
	Data    string // folder of what is kept; "data" below dir if ""
	Uplinks []Uplink
	// Settings are further lines for --set, "key=value".
	Settings []string
	// Via is a command that becomes the broker, which is named by its last arguments; nil = none. Env
	// is its environment, added to the caller's.
	Via, Env []string
}

// Uplink is an uplink of a Gateway.
type Uplink struct {
	Name     string
	Endpoint string // mqtt://host:port
	ClientID string
	Rules    []Rule
	Down     []Rule
	Window   int // messages in flight; the default if 0
}

// Rule is a rule of an Uplink: what matches From goes to To, "" = where it came from. Its QoS is
// that of the message, at most QoS.
type Rule struct {
	From, To string
	QoS      int
}

// Dunlin runs the broker with its files in dir.
func Dunlin(ctx context.Context, dir string, g Gateway) (*Process, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	if g.Address == "" {
		if g.Address, err = FreeAddress(); err != nil {
			return nil, err
		}
	}
	if g.Data == "" {
		g.Data = filepath.Join(dir, "data")
	}
	file := filepath.Join(dir, "dunlin.yaml")
	if err := os.WriteFile(file, []byte(g.yaml()), 0o600); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	args := []string{"serve", "--config", file}
	for _, s := range g.Settings {
		args = append(args, "--set", s)
	}
	args = append(append(slices.Clone(g.Via), binary), args...)
	return Start(ctx, Spec{
		Path: args[0], Args: args[1:], Dir: dir, Env: g.Env, Log: filepath.Join(dir, "dunlin.log"),
		Network: "tcp", Address: g.Address,
	})
}

// yaml returns the configuration file.
func (g Gateway) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "data: %q\n", g.Data)
	fmt.Fprintf(&b, "listeners:\n  - address: %q\n", g.Address)
	if g.Socket != "" {
		fmt.Fprintf(&b, "  - address: %q\n", "unix:"+g.Socket)
	}
	// Tests queue more for one absent session than a gateway would.
	fmt.Fprintf(&b, "sessions:\n  max_queued_messages: 2000000\n  max_queued_bytes: 64GiB\n")
	if len(g.Uplinks) > 0 {
		fmt.Fprintf(&b, "uplinks:\n")
	}
	for _, u := range g.Uplinks {
		fmt.Fprintf(&b, "  - name: %s\n", u.Name)
		fmt.Fprintf(&b, "    endpoints: [%q]\n", u.Endpoint)
		fmt.Fprintf(&b, "    client_id: %q\n", u.ClientID)
		// A test has no minute to wait for the link.
		fmt.Fprintf(&b, "    backoff: {min: 100ms, max: 1s, stable: 1s}\n")
		if u.Window > 0 {
			fmt.Fprintf(&b, "    limits: {max_in_flight: %d}\n", u.Window)
		}
		rules(&b, "rules", u.Rules)
		rules(&b, "down", u.Down)
	}
	return b.String()
}

func rules(b *strings.Builder, key string, rules []Rule) {
	if len(rules) == 0 {
		return
	}
	fmt.Fprintf(b, "    %s:\n", key)
	for _, r := range rules {
		to := ""
		if r.To != "" {
			to = fmt.Sprintf(", to: %q", r.To)
		}
		fmt.Fprintf(b, "      - {from: %q%s, qos: %d}\n", r.From, to, r.QoS)
	}
}
