package faultdisk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// FileSystem is a kind of file system, with how it is made and mounted.
type FileSystem struct {
	Name string // for people
	Size int64  // of the disk, bytes

	sector int      // what a disk writes whole or not at all, bytes
	make   []string // the command, which gets the path of the image
	mount  string   // options besides noatime
}

// The file systems that can be tried. Lazy initialisation would write in the background for
// minutes and fill the log.
var (
	Ext4 = FileSystem{
		Name: "ext4", Size: 96 << 20, sector: 512,
		make: []string{"mke2fs", "-F", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
	}
	// Ext4Writeback orders nothing between data and the journal.
	Ext4Writeback = FileSystem{Name: "ext4 data=writeback", Size: Ext4.Size, sector: Ext4.sector, make: Ext4.make, mount: ",data=writeback"}
	XFS           = FileSystem{
		Name: "xfs", Size: 320 << 20, // mkfs makes none that is smaller than 300 MB
		// It needs a disk that writes its blocks whole: a cut that tears them while it replays its
		// journal leaves trees that it finds damaged itself.
		sector: 4096,
		make:   []string{"mkfs.xfs", "-q", "-f", "-s", "size=4096"},
		// The image of a disk has its identity.
		mount: ",nouuid",
	}
	Btrfs = FileSystem{Name: "btrfs", Size: 192 << 20, sector: 512, make: []string{"mkfs.btrfs", "-q", "-f"}}
)

// options returns what mount gets with -o.
func (s FileSystem) options() string { return "noatime" + s.mount }

// format returns an image with an empty file system.
func (s FileSystem) format(dir string) ([]byte, error) {
	path := filepath.Join(dir, "base.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	defer os.Remove(path)
	if err := os.Truncate(path, s.Size); err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	if _, err := run(s.make[0], append(slices.Clone(s.make[1:]), path)...); err != nil {
		return nil, err
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	return image, nil
}
