// Package faultdisk is a disk that remembers every write and every flush in order, so that any
// state in which a power cut may leave a real disk can be rebuilt afterwards (Linux, root).
//
//	broker ▶ file system ▶ loop device ▶ image file in our FUSE file system ▶ memory and log
//
// A disk keeps what was written before the last completed flush. Of what was written after it,
// a power cut may keep everything, nothing, some writes and not others in any order, or parts of
// a write, at the grain of a sector. Image builds such a state for any moment of the log; Mount
// shows it to a program.
//
// A test that kills a process cannot see a missing fsync, since the page cache survives the
// process. This one does.
package faultdisk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxLog bounds the memory of the log, bytes. When it is full, writes fail with ENOSPC and
	// Err says so: a run that long is not one to check.
	maxLog = 1 << 30
	// releaseGuard is how long the image may stay busy when everything is unmounted.
	releaseGuard = 2 * time.Second
)

// op is a write, or a flush if data is nil.
type op struct {
	offset int64
	data   []byte
}

// Disk is a mounted fault disk. Its methods may be called from any goroutine.
type Disk struct {
	Path string // where the file system is mounted

	dir    string
	system FileSystem
	loop   string // /dev/loopN
	server *fuse.Server
	broom  *broom
	base   []byte // as it was at first

	mu      sync.Mutex // guards what follows
	image   []byte     // what a reader sees now
	log     []op
	bytes   int64 // sum of the data in log
	flushes int
	err     error
}

// Create makes a disk with an empty file system and mounts it below dir, which should be on a
// tmpfs or another fast place. The caller calls Close.
//
// An error says what the machine lacks and how to get it.
func Create(dir string, system FileSystem) (*Disk, error) {
	if err := Usable(); err != nil {
		return nil, err
	}
	base, err := system.format(dir)
	if err != nil {
		return nil, err
	}
	return Resume(dir, system, base)
}

// Resume makes a disk that holds an image, as a disk is after a power cut, and mounts it: what
// the file system writes to recover is the beginning of its log. The image is the disk's from
// then on. The caller calls Close.
func Resume(dir string, system FileSystem, image []byte) (*Disk, error) {
	d := &Disk{dir: dir, system: system, Path: filepath.Join(dir, "mounted"), base: image}
	for _, sub := range []string{d.Path, d.below()} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return nil, fmt.Errorf("faultdisk: %w", err)
		}
	}
	d.image = append([]byte(nil), d.base...)
	if err := d.mount(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Usable returns nil if this machine can run a fault disk, else an error that says what to do.
func Usable() error {
	if os.Geteuid() != 0 {
		return errors.New("faultdisk: needs root, for mount and losetup: run the test as root (sudo make test)")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			return fmt.Errorf("faultdisk: %w: load the kernel modules (modprobe fuse loop), in a container pass the device in", err)
		}
	}
	for program, pkg := range map[string]string{"mke2fs": "e2fsprogs", "losetup": "mount", "mount": "mount", "umount": "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("faultdisk: %w: apt-get install %s", err, pkg)
		}
	}
	return nil
}

// below is where the FUSE file system is mounted that holds the image.
func (d *Disk) below() string { return filepath.Join(d.dir, "below") }

func (d *Disk) mount() (err error) {
	if d.broom, err = newBroom(); err != nil {
		return err
	}
	root := &root{disk: d}
	d.server, err = fs.Mount(d.below(), root, &fs.Options{MountOptions: fuse.MountOptions{
		AllowOther: true, FsName: "faultdisk", DirectMount: true, MaxWrite: 1 << 17,
	}})
	if err != nil {
		return fmt.Errorf("faultdisk: mount: %w", err)
	}
	d.broom.add("umount --lazy " + d.below())
	if d.loop, err = run("losetup", "--find", "--show", filepath.Join(d.below(), imageName)); err != nil {
		return err
	}
	d.broom.add("losetup --detach " + d.loop)
	if _, err = run("mount", "-o", d.system.options(), d.loop, d.Path); err != nil {
		return err
	}
	d.broom.add("umount --lazy " + d.Path)
	return nil
}

// Close unmounts everything. The log stays readable.
func (d *Disk) Close() error {
	var errs []error
	if mounted(d.Path) {
		_, err := run("umount", d.Path)
		errs = append(errs, err)
	}
	if d.loop != "" {
		_, err := run("losetup", "--detach", d.loop)
		errs = append(errs, err)
		d.loop = ""
	}
	if d.server != nil {
		errs = append(errs, d.release())
		d.server = nil
	}
	if d.broom != nil {
		errs = append(errs, d.broom.close(errors.Join(errs...) == nil))
		d.broom = nil
	}
	return errors.Join(errs...)
}

// release unmounts the FUSE file system. A container that was started meanwhile may have a copy
// of our mounts and hold the loop device for some time: then it goes as soon as that is gone.
func (d *Disk) release() error {
	deadline := time.After(releaseGuard)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := d.server.Unmount()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-deadline:
			if lazy := unix.Unmount(d.below(), unix.MNT_DETACH); lazy != nil {
				return errors.Join(fmt.Errorf("faultdisk: unmount: %w", err), lazy)
			}
			return nil
		}
	}
}

// Sync writes everything to the disk that programs have left to the page cache, and flushes it.
func (d *Disk) Sync() error {
	f, err := os.Open(d.Path)
	if err != nil {
		return fmt.Errorf("faultdisk: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("faultdisk: syncfs: %w", err)
	}
	return nil
}

// Position returns how many operations the disk has completed. An acknowledgement that is read
// now must be in every image of a cut from here on.
func (d *Disk) Position() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// Written returns the bytes written and the flushes so far.
func (d *Disk) Written() (bytes int64, flushes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes, d.flushes
}

// Err returns an error if the log is not whole.
func (d *Disk) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Loss is what becomes of the writes that no flush has covered.
type Loss string

// The losses.
const (
	Nothing   Loss = "nothing"   // every write got through, as after a kill of the process
	Unflushed Loss = "unflushed" // none got through
	Reordered Loss = "reordered" // some writes got through, whole, whatever their order
	Torn      Loss = "torn"      // some sectors got through
)

// Losses lists all losses.
var Losses = []Loss{Nothing, Unflushed, Reordered, Torn}

// Image returns the content of the disk after a power cut behind the first cut operations.
func (d *Disk) Image(cut int, loss Loss, rng *rand.Rand) []byte {
	d.mu.Lock()
	log := d.log[:cut]
	d.mu.Unlock()
	image := append([]byte(nil), d.base...)
	safe := 0 // operations before it are covered by a flush
	for i, o := range log {
		if o.data == nil {
			safe = i
		}
	}
	for i, o := range log {
		switch {
		case o.data == nil:
		case i < safe || loss == Nothing:
			copy(image[o.offset:], o.data)
		case loss == Reordered && rng.IntN(2) == 0:
			copy(image[o.offset:], o.data)
		case loss == Torn:
			sector := d.system.sector
			for s := 0; s < len(o.data); s += sector {
				if rng.IntN(2) == 0 {
					copy(image[o.offset+int64(s):], o.data[s:min(s+sector, len(o.data))])
				}
			}
		}
	}
	return image
}

// run runs a program and returns what it printed.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("faultdisk: %s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// mounted reports whether something is mounted at path.
func mounted(path string) bool {
	var at, above syscall.Stat_t
	if syscall.Stat(path, &at) != nil || syscall.Stat(filepath.Dir(path), &above) != nil {
		return false
	}
	return at.Dev != above.Dev
}
