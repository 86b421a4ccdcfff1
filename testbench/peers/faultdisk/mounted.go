package faultdisk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Mounted is a crash image that is mounted.
type Mounted struct {
	Path  string // the root of its file system
	file  string
	broom *broom
}

// Mount writes an image to a file in dir and mounts it, which lets its file system recover. No
// other image of the same disk is mounted, nor that disk. The caller calls Close.
func Mount(dir string, system FileSystem, image []byte) (*Mounted, error) {
	file := filepath.Join(dir, "image.img")
	if err := writeSparse(file, image); err != nil {
		return nil, err
	}
	return mountFile(dir, system, file)
}

// mountFile mounts the image in a file, which is removed by Close.
func mountFile(dir string, system FileSystem, file string) (*Mounted, error) {
	m := &Mounted{Path: filepath.Join(dir, "image"), file: file}
	if err := os.MkdirAll(m.Path, 0o755); err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	var err error
	if m.broom, err = newBroom(); err != nil {
		return nil, err
	}
	m.broom.add("umount --lazy " + m.Path)
	if _, err := run("mount", "-o", "loop,"+system.options(), m.file, m.Path); err != nil {
		return nil, errors.Join(err, os.Remove(m.file), m.broom.close(true))
	}
	return m, nil
}

// Close unmounts the image and removes it.
func (m *Mounted) Close() error {
	_, err := run("umount", m.Path)
	return errors.Join(err, os.Remove(m.file), m.broom.close(err == nil))
}

// writeSparse writes an image to a file with holes where it is empty.
func writeSparse(path string, image []byte) error {
	const block = 1 << 16
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("faultdisk: %w", err)
	}
	empty := make([]byte, block)
	for at := 0; at < len(image); at += block {
		part := image[at:min(at+block, len(image))]
		if bytes.Equal(part, empty[:len(part)]) {
			continue
		}
		if _, err := f.WriteAt(part, int64(at)); err != nil {
			return errors.Join(fmt.Errorf("faultdisk: %w", err), f.Close())
		}
	}
	if err := errors.Join(f.Truncate(int64(len(image))), f.Close()); err != nil {
		return fmt.Errorf("faultdisk: %w", err)
	}
	return nil
}
