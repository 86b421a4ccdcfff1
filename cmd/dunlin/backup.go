package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dunlin/cmd/dunlin/console"
	"dunlin/storeforward/archive"
	"dunlin/storeforward/boltfile"
)

const backupHelp = `Usage: dunlin backup [--data DIR | --config FILE | --socket PATH] FILE

Writes everything that a broker keeps into FILE: sessions, queues, retained and
delayed messages, the spools of the uplinks. If the broker runs, it goes on
meanwhile: every message that was acknowledged before the backup began is in it,
unless it has reached its receivers. The file appears when it is whole and on
disk. With a name that ends in .gz it is compressed.

It holds what clients have published. Its mode is 0600.

  --data, --config, --socket
                  as in "dunlin status"
`

const restoreHelp = `Usage: dunlin restore [--data DIR | --config FILE] [--replace] FILE

Makes the files of a data folder of a backup. The broker must not run. The whole
backup is read and checked first; then the files appear all at once, even if
the power fails on the way.

What was delivered after the backup may be delivered again, and what was
acknowledged after it is not there. Uplinks begin a new session.

  --data DIR      the data folder; ./dunlin-data if nothing else is said
  --config FILE   the data folder of that configuration
  --replace       there is data in it already: move that to a folder "replaced"
`

func backup(c *call) error {
	fs := c.options()
	p := placeOptions(fs)
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) != 1 {
		return usagef("wants one file, got %d", len(others))
	}
	folder, err := p.open()
	if err != nil {
		return err
	}
	defer folder.unlock()
	return writeBackup(others[0], folder.export)
}

// export writes an archive of the folder, which a broker may use.
func (d *dataFolder) export(w io.Writer) error {
	ctx := context.Background()
	if d.client != nil {
		body, err := d.client.Open(ctx, http.MethodGet, "/v1/db/export", nil)
		if err != nil {
			return absent(err)
		}
		defer body.Close()
		return console.CopyLines(w, body)
	}
	from, done, err := archive.Folder(d.path)
	if err != nil {
		return remedyForFile(err)
	}
	if from.Sessions == nil && len(from.Spools) == 0 {
		return errors.Join(fmt.Errorf("there is nothing in %s yet", d.path), done())
	}
	return errors.Join(archive.Write(ctx, w, from, version, nowText()), done())
}

// writeBackup writes what export does into a file, which is there when it is whole and on disk.
func writeBackup(path string, export func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	var check archive.Checker
	buffered := bufio.NewWriterSize(f, 256<<10)
	to, finish := io.Writer(buffered), func() error { return nil }
	if strings.HasSuffix(path, ".gz") {
		z := gzip.NewWriter(buffered)
		to, finish = z, z.Close
	}
	err = export(io.MultiWriter(to, &check))
	if err == nil && !check.Complete() {
		err = errors.New("backup: what the broker has sent is not whole; try again")
	}
	if err == nil {
		err = errors.Join(finish(), buffered.Flush(), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return boltfile.SyncFolder(filepath.Dir(path), false)
}

func restore(c *call) error {
	fs := c.options()
	p := new(place)
	fs.StringVar(&p.data, "data", "", "")
	fs.StringVar(&p.file, "config", "", "")
	replace := fs.Bool("replace", false, "")
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) != 1 {
		return usagef("wants one file, got %d", len(others))
	}
	f, err := os.Open(others[0])
	if err != nil {
		return err
	}
	defer f.Close()
	return c.restoreFrom(f, p, *replace, "add --replace to have it moved away")
}

// restoreFrom makes a data folder of an archive.
func (c *call) restoreFrom(in io.Reader, p *place, replace bool, remedy string) error {
	path, err := p.folder()
	if err != nil {
		return err
	}
	if path == "" {
		path = "dunlin-data"
	}
	unlock, err := lockData(path)
	if err != nil {
		return err
	}
	defer unlock()
	ownLock(path)
	in, err = unzipped(in)
	if err != nil {
		return err
	}
	r, err := archive.Restore(path, in, replace)
	switch {
	case errors.Is(err, archive.ErrNotEmpty):
		return fmt.Errorf("%w; choose an empty folder with --data, or %s", err, remedy)
	case err != nil:
		return err
	}
	fmt.Fprintf(c.out, "%s: %s; %d sessions, %d messages in queues, %d retained, %d delayed, %d in spools\n", path, strings.Join(r.Files, ", "),
		r.Lines["session"], r.Lines["message"], r.Lines["retained"], r.Lines["delayed"], r.Lines["spooled"])
	if n := r.Lines["damaged"]; n > 0 {
		fmt.Fprintf(c.err, "warning: %d values were damaged when the backup was made and are not restored\n", n)
	}
	if r.Mismatch > 0 {
		fmt.Fprintf(c.err, "warning: the ledger does not add up by %d messages: their records are missing\n", r.Mismatch)
	}
	return nil
}

// ownLock gives the lock file to the owner of the data folder: the broker may not be root.
func ownLock(folder string) {
	info, err := os.Stat(folder)
	if err != nil || os.Geteuid() != 0 {
		return
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		_ = os.Lchown(filepath.Join(folder, "lock"), int(owner.Uid), int(owner.Gid)) // the broker says it if it cannot use it
	}
}

// unzipped reads what may be compressed.
func unzipped(in io.Reader) (io.Reader, error) {
	b := bufio.NewReader(in)
	magic, err := b.Peek(2)
	if err != nil || string(magic) != "\x1f\x8b" {
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("it is compressed, and damaged: %w", err)
	}
	return z, nil
}

func (d *dbCall) export() error {
	folder, err := d.place.open()
	if err != nil {
		return err
	}
	defer folder.unlock()
	out := bufio.NewWriterSize(d.out, 256<<10)
	return errors.Join(folder.export(out), out.Flush())
}

func (d *dbCall) imports() error {
	if d.place.socket != "" {
		return usagef("a broker that runs imports nothing; name its data folder with --data, and stop it first")
	}
	return d.restoreFrom(d.in, d.place, false, "use dunlin restore --replace")
}
