package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"dunlin/cmd/dunlin/config"
	"dunlin/cmd/dunlin/console"
	"dunlin/storeforward/archive"
	"dunlin/storeforward/boltfile"
)

const dbHelp = `Usage: dunlin db info    [PLACE] [--json]
       dunlin db check   [PLACE] [--json]
       dunlin db dump    [PLACE] [--only KIND,...]
       dunlin db compact [PLACE] [--json]
       dunlin db export  [PLACE] > FILE
       dunlin db import  [PLACE] < FILE

Looks into the files of a data folder. If a broker runs on it, the broker is
asked, and goes on meanwhile; otherwise the files are read.

  info      format, version, state, size and contents of each file
  check     the same, and every page and checksum; exits with 0 if everything is
            whole, 3 if something is damaged, 1 if it could not look. While the
            broker runs the values are checked, but not the tree around them
  dump      every value, as one line of JSON each; FORMAT.md explains the lines
  compact   give the space of what was deleted back to the disk
  export    everything, to standard output, as lines of JSON for import
  import    make the files of an empty data folder of an export; the broker must
            not run. "dunlin backup" and "dunlin restore" do the same with files

PLACE is one of

  --data DIR      the data folder; ./dunlin-data if nothing else is said and no
                  service runs
  --config FILE   the data folder of that configuration
  --socket PATH   the admin socket of a broker that runs

and further options are

  --json          print JSON
  --only KIND,... dump these kinds of lines: boot, delayed, session, cursor,
                  retained, total, counters, message, spooled, spool, damaged
`

// dbCall is one run of "dunlin db".
type dbCall struct {
	*call
	place *place
	json  bool
	only  []string
	args  []string // behind the action
}

// errDamaged is told by its exit code, when everything has been said.
var errDamaged = errors.New("damaged")

func db(c *call) error {
	fs := c.options()
	d := &dbCall{call: c, place: placeOptions(fs)}
	fs.BoolVar(&d.json, "json", false, "")
	only := fs.String("only", "", "")
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) == 0 {
		return usagef("what is to be done is missing: info, check, dump, compact, export or import")
	}
	actions := map[string]func() error{
		"info": func() error { return d.look(false) }, "check": func() error { return d.look(true) },
		"dump": d.dump, "compact": d.compact, "export": d.export, "import": d.imports,
	}
	action, known := actions[others[0]]
	if !known {
		return usagef("there is no %q; allowed: info, check, dump, compact, export, import", others[0])
	}
	if d.args = others[1:]; len(d.args) > 0 {
		return usagef("%q is too much", d.args[0])
	}
	if *only != "" {
		d.only = strings.Split(*only, ",")
		if err := knownKinds(d.only); err != nil {
			return &usageError{err.Error()}
		}
	}
	return action()
}

// dataFolder is a data folder that no broker uses, or the console of the one that does.
type dataFolder struct {
	path   string
	client *console.Client // nil = no broker uses it
	unlock func()
}

// open finds the data folder that is meant and keeps brokers out of it, or finds the broker.
func (p *place) open() (*dataFolder, error) {
	if p.socket != "" {
		client, err := p.console()
		return &dataFolder{client: client, unlock: func() {}}, err
	}
	folder, err := p.folder()
	if err != nil {
		return nil, err
	}
	if folder == "" {
		if socket := serviceSocket(); isSocket(socket) {
			return &dataFolder{client: console.NewClient(socket), unlock: func() {}}, nil
		}
		folder = config.Default().Data
	}
	return openFolder(folder)
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// openFolder locks a data folder that is there. A folder that cannot be written to is not locked: no
// broker can run on it.
func openFolder(folder string) (*dataFolder, error) {
	if info, err := os.Stat(folder); err != nil {
		return nil, fmt.Errorf("data folder: %w; name one with --data or --config", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("data folder: %s is none; name one with --data or --config", folder)
	}
	d := &dataFolder{path: folder, unlock: func() {}}
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EROFS):
		return d, nil // nobody has used it yet, or nobody can
	case err != nil:
		return nil, fmt.Errorf("data folder: %w; use sudo", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		if err := archive.Complete(folder); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		d.unlock = func() { f.Close() }
		return d, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, fmt.Errorf("data folder: lock %s: %w", folder, err)
	}
	defer f.Close()
	socket := notedSocket(folder)
	if socket == "" {
		return nil, fmt.Errorf("data folder %s: another process%s uses it and has no admin socket; stop it first", folder, holder(f))
	}
	d.client = console.NewClient(socket)
	return d, nil
}

// look prints what the files hold, and with check what is wrong with them.
func (d *dbCall) look(check bool) error {
	folder, err := d.place.open()
	if err != nil {
		return err
	}
	defer folder.unlock()
	files := []console.File{}
	if folder.client != nil {
		err = folder.client.Get(context.Background(), "/v1/db/check", nil, &files)
		err = absent(err)
	} else {
		files, err = lookOffline(folder.path)
	}
	if err != nil {
		return err
	}
	if d.json {
		err = printJSON(d.out, files)
	} else {
		err = printFiles(d.out, files, check, folder.client != nil)
	}
	if err != nil || !check {
		return err
	}
	for i := range files {
		if files[i].Damaged() {
			return errDamaged
		}
		if files[i].Refused != "" {
			return fmt.Errorf("%s: %s", files[i].Name, files[i].Refused)
		}
	}
	return nil
}

// lookOffline looks into the files of a folder, each in a process of its own, as a broker does before
// it opens them.
func lookOffline(folder string) ([]console.File, error) {
	names, err := archive.Files(folder)
	if err != nil {
		return nil, err
	}
	files := []console.File{}
	for _, name := range names {
		r, err := checkApart(context.Background(), filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		files = append(files, fileOf(name, r, true))
	}
	return files, nil
}

func printFiles(out io.Writer, files []console.File, check, running bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(files) == 0 {
		fmt.Fprintln(w, "there is nothing in it yet")
	}
	for i := range files {
		f := &files[i]
		fmt.Fprintf(w, "%s\t%s version %d, %s, transaction %d\n", plain(f.Name), plain(f.Format), f.Version, stateOf(f, running), f.TxID)
		free := "free space not known"
		if f.Free >= 0 {
			free = inBytes(f.Free) + " free"
		}
		fmt.Fprintf(w, "\t%s, %s\n", inBytes(f.Bytes), free)
		var values []string
		for _, bucket := range slices.Sorted(maps.Keys(f.Values)) {
			values = append(values, fmt.Sprintf("%s %d", plain(bucket), f.Values[bucket]))
		}
		fmt.Fprintf(w, "\t%s\n", strings.Join(values, ", "))
		if f.Refused != "" {
			fmt.Fprintf(w, "\tCANNOT BE READ: %s\n", f.Refused)
		}
		if check || f.Damaged() {
			printVerdict(w, f)
		}
	}
	return w.Flush()
}

// stateOf says in words whether a file is in use.
func stateOf(f *console.File, running bool) string {
	switch {
	case running:
		return "in use"
	case f.State == "clean":
		return "closed in order"
	}
	return "not closed in order"
}

func printVerdict(w io.Writer, f *console.File) {
	if !f.Damaged() {
		what := "pages and values are whole"
		if !f.Whole {
			what = "values are whole; stop the broker to have the tree checked, too"
		}
		if f.Refused == "" {
			fmt.Fprintf(w, "\t%s\n", what)
		}
		return
	}
	fmt.Fprintf(w, "\tDAMAGED: %d faults of the structure, %d values\n", f.Faults, f.BadValues)
	for _, words := range f.Words {
		fmt.Fprintf(w, "\t- %s\n", plain(words))
	}
	fmt.Fprintln(w, "\tthe next start of the broker salvages what it can, and keeps the damaged file")
}

func (d *dbCall) dump() error {
	folder, err := d.place.open()
	if err != nil {
		return err
	}
	defer folder.unlock()
	if folder.client != nil {
		query := url.Values{}
		if d.only != nil {
			query.Set("only", strings.Join(d.only, ","))
		}
		body, err := folder.client.Open(context.Background(), http.MethodGet, "/v1/db/dump", query)
		if err != nil {
			return absent(err)
		}
		defer body.Close()
		return console.CopyLines(d.out, body)
	}
	from, done, err := archive.Folder(folder.path)
	if err != nil {
		return remedyForFile(err)
	}
	return errors.Join(archive.Dump(context.Background(), d.out, from, d.only), done())
}

// remedyForFile says what to do about a file that does not open.
func remedyForFile(err error) error {
	switch {
	case errors.Is(err, boltfile.ErrNewer), errors.Is(err, boltfile.ErrInUse):
		return err // it says so itself
	case isDamage(err):
		return fmt.Errorf("%w; start the broker, which salvages it, or look at \"dunlin db check\"", err)
	}
	return err
}

func (d *dbCall) compact() error {
	folder, err := d.place.open()
	if err != nil {
		return err
	}
	defer folder.unlock()
	done := []console.Compacted{}
	if folder.client != nil {
		err = absent(folder.client.Post(context.Background(), "/v1/db/compact", nil, &done))
	} else {
		done, err = compactOffline(folder.path)
	}
	if err != nil {
		return err
	}
	if d.json {
		err = printJSON(d.out, done)
	} else {
		for _, c := range done {
			if c.Error == "" {
				fmt.Fprintf(d.out, "%s  %s -> %s\n", plain(c.Name), inBytes(c.Before), inBytes(c.After))
			}
		}
	}
	var faults []error
	for _, c := range done {
		if c.Error != "" {
			faults = append(faults, errors.New(c.Error))
		}
	}
	return errors.Join(err, errors.Join(faults...))
}

// compactOffline compacts the files of a folder that are whole.
func compactOffline(folder string) (done []console.Compacted, err error) {
	files, err := lookOffline(folder)
	if err != nil {
		return nil, err
	}
	done = []console.Compacted{}
	for i := range files {
		c := console.Compacted{Name: files[i].Name}
		path := filepath.Join(folder, c.Name)
		switch {
		case files[i].Refused != "":
			c.Error = fmt.Sprintf("%s: %s", c.Name, files[i].Refused)
		case files[i].Damaged():
			c.Error = fmt.Sprintf("%s is damaged; start the broker first, which salvages it", c.Name)
		default:
			if c.Before, c.After, err = boltfile.Compact(path, kindOf(path)); err != nil {
				c.Error = err.Error()
			}
		}
		done = append(done, c)
	}
	return done, nil
}
