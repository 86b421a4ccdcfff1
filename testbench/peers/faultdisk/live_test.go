package faultdisk

import (
	"os"
	"path/filepath"
	"testing"
)

// TestACopyHoldsWhatWasSyncedBeforeIt syncs one file before the copy and another one behind it, and
// leaves a third to the page cache.
func TestACopyHoldsWhatWasSyncedBeforeIt(t *testing.T) {
	disk, err := CreateLive(t.TempDir(), Ext4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	write := func(name string, sync bool) {
		f, err := os.Create(filepath.Join(disk.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(name); err != nil {
			t.Fatal(err)
		}
		if !sync {
			return
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	write("before", true)
	write("never", false)
	n, err := disk.Copy()
	if err != nil {
		t.Fatal(err)
	}
	write("behind", true)
	if err := disk.End(); err != nil {
		t.Fatal(err)
	}
	copied, err := disk.Mount(n)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}()
	for name, want := range map[string]string{"before": "before", "never": "", "behind": ""} {
		if b, _ := os.ReadFile(filepath.Join(copied.Path, name)); string(b) != want {
			t.Errorf("%s holds %q in the copy, want %q", name, b, want)
		}
	}
}
