// Package arch holds the rules of the source tree as data and checks the tree against them:
// which package may import what, which do no I/O, how packages are named and documented, and
// that the documents name paths that exist.
//
// A rule that does not fit is changed in a commit of its own, with the reason.
package arch

import "slices"

// module is the path of the product's module.
const module = "dunlin"

// rule says what the packages of a row may import besides the standard library.
type rule struct {
	// of is a package below the module, or a folder and /... for all packages in it. The first
	// row that fits counts.
	of string
	// may are packages below the module, folders and /... for all packages in them, other
	// modules by their path, or "anything".
	may []string
}

// Other modules. Each needs an argument in the commit that brings it.
const (
	sys     = "golang.org/x/sys"
	crypto  = "golang.org/x/crypto"
	systemd = "github.com/coreos/go-systemd/v22"
	bbolt   = "go.etcd.io/bbolt"
	paho    = "github.com/eclipse/paho.golang"
	gjson   = "github.com/tidwall/gjson"
	yaml    = "go.yaml.in/yaml/v3"
)

// leaves are the packages of core that have no behaviour of a broker: what others may build on.
var leaves = []string{"core/topic", "core/packet", "core/message", "core/durable"}

// rules is the table. Tests may import more: see never.
var rules = []rule{
	{"platform/clock", []string{sys}},
	{"platform/poll", []string{sys}},
	{"platform/service", []string{sys, systemd}},
	{"platform/certs", []string{crypto}},

	{"core/topic", nil},
	{"core/packet", []string{"core/topic"}},
	{"core/message", []string{"core/topic"}},
	{"core/durable", []string{"core/packet", "core/message"}},
	{"core/session", leaves},
	{"core/route", []string{"core/topic"}},
	{"core/retain", []string{"core/topic", "core/message"}},
	{"core/rule", []string{"core/topic", "core/message", gjson}},
	{"core/access", []string{"core/topic"}},
	{"core/auth", []string{"core/access", crypto}},
	{"core/budget", nil},
	// Sockets are bare file descriptors: the error numbers and options are those of x/sys.
	{"core/conn", []string{"core/packet", "platform/...", sys}},
	{"core/loop", []string{"core/conn", "platform/...", sys}},
	{"core/broker", []string{"core/..."}},

	{"storeforward/boltfile", []string{sys, bbolt}},
	// boltfile hands out transactions, so its users meet the types of bbolt. sessionstore keeps
	// the history of boots.
	{"storeforward/sessionstore", slices.Concat(leaves, []string{"storeforward/boltfile", "platform/clock", bbolt})},
	{"storeforward/spool", slices.Concat(leaves, []string{"storeforward/boltfile", bbolt})},
	{"storeforward/archive", slices.Concat(leaves, []string{"storeforward/...", "platform/clock"})},

	{"uplink/forward", []string{"core/message"}},
	{"uplink/mqtt", []string{"uplink/forward", "core/message", paho}},
	{"uplink/http", []string{"uplink/forward", "core/message"}},
	{"uplink/runner", slices.Concat(leaves, []string{"uplink/...", "core/rule", "storeforward/spool", "platform/clock"})},

	{"cmd/dunlin", []string{"anything"}}, // the wiring
	{"cmd/dunlin/client", []string{"core/packet"}},
	{"cmd/dunlin/config", []string{"core/topic", "core/packet", "core/rule", "core/access", yaml, sys}},
	{"cmd/dunlin/console", nil}, // over small interfaces of its own
	{"cmd/dunlin-bench", []string{"core/packet", "testbench/...", sys}},

	{"packaging", nil},
	{"testbench/...", []string{"anything"}},
}

// never are the directions that hold for tests as well, whatever the table says.
var never = []struct {
	from string
	to   []string
}{
	{"core", []string{"storeforward", "uplink", "cmd"}},
	{"platform", []string{"core", "storeforward", "uplink", "cmd"}},
	{"storeforward", []string{"uplink", "cmd"}},
	{"uplink", []string{"cmd"}},
}

// pure are the packages that decide and do nothing else: their tests run without time passing,
// and the same input always has the same effect. They import none of impure, do not ask for the
// time and start no goroutine.
var pure = []string{"core/session", "uplink/forward"}

var impure = []string{"os", "net", "sync", "syscall", sys}

// clockFunctions are the functions of package time that know what time it is or wait.
var clockFunctions = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// vagueNames say nothing about what a package is for.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "type", "types", "manager", "misc", "base"}

// documents name paths of the tree; those that are not written yet are passed over.
var documents = []string{"ARCHITECTURE.md", "FORMAT.md"}

// packageMap is the document that has every package of these folders.
const packageMap = "ARCHITECTURE.md"

var mapped = []string{"platform", "core", "storeforward", "uplink"}
