package faultdisk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// record is a line that was written, and where the disk stood when it was done.
type record struct {
	n        int
	position int
}

// TestOnlyWhatWasSyncedSurvives writes two files side by side, syncs only one of them, and
// looks for both in the images: the disk must keep the one and be able to lose the other.
func TestOnlyWhatWasSyncedSurvives(t *testing.T) {
	disk, err := Create(t.TempDir(), Ext4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	written := map[string][]record{}
	files := map[string]*os.File{}
	for _, name := range []string{"synced", "lazy"} {
		f, err := os.OpenFile(filepath.Join(disk.Path, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[name] = f
	}
	for n := range 300 {
		for name, f := range files {
			if _, err := fmt.Fprintf(f, "%s %08d %s\n", name, n, strings.Repeat(".", 1500)); err != nil {
				t.Fatal(err)
			}
			if name == "synced" {
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			written[name] = append(written[name], record{n, disk.Position()})
		}
	}
	if err := disk.Err(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}

	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	lost := map[string]int{}
	operations := disk.Position()
	for i := range 12 {
		cut := 1 + rng.IntN(operations)
		image, err := Mount(dir, Ext4, disk.Image(cut, Losses[i%len(Losses)], rng))
		if err != nil {
			t.Fatal(err)
		}
		for name, records := range written {
			b, _ := os.ReadFile(filepath.Join(image.Path, name))
			for _, r := range records {
				if r.position <= cut && !strings.Contains(string(b), fmt.Sprintf("%s %08d ", name, r.n)) {
					lost[name]++
				}
			}
		}
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if lost["synced"] != 0 {
		t.Errorf("%d synced lines were lost, want none", lost["synced"])
	}
	if lost["lazy"] == 0 {
		t.Error("no line that was not synced was lost: the disk forgets nothing and proves nothing")
	}
	bytes, flushes := disk.Written()
	t.Logf("%d operations, %d flushes, %d bytes; lost: %v", operations, flushes, bytes, lost)
}
