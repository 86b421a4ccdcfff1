package boltfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// resident returns how much of the mapping of the file at path is in the process's memory, in
// bytes.
func resident(t *testing.T, path string) (n int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(raw)) {
		var kb int
		if strings.Contains(line, "-") && strings.Contains(strings.Fields(line)[0], "-") {
			ours = strings.HasSuffix(strings.TrimSpace(line), path)
		} else if _, err := fmt.Sscanf(line, "Rss: %d kB", &kb); err == nil && ours {
			n += kb << 10
		}
	}
	return n
}

func TestForgetGivesTheMemoryOfReadsBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	o := testOptions
	o.MaxBytes = 64 << 20
	f, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	value := strings.Repeat("x", 1000)
	err = f.Update(func(tx *bbolt.Tx) error {
		for i := range 8000 {
			if err := put(fmt.Sprintf("%06d", i), value)(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	walk := func() (n int) {
		f.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("a")).ForEach(func(k, v []byte) error {
				n += int(v[0]) / 'x'
				return nil
			})
		})
		return n
	}
	walk()
	if got := resident(t, path); got < 7<<20 {
		t.Fatalf("%d bytes are resident after reading 8 MB: the test tests nothing", got)
	}
	f.Forget()
	if got := resident(t, path); got > 1<<20 {
		t.Errorf("%d bytes are still resident", got)
	}
	if got := walk(); got != 8000 {
		t.Errorf("got %d values afterwards, want 8000", got)
	}
}
