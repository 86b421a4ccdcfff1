package books

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin/core/durable"
	"dunlin/storeforward/sessionstore"
)

func TestAnAccountThatDoesNotAddUpIsAnError(t *testing.T) {
	whole := Account{Accepted: 10, Delivered: 5, Lost: 2, Pending: 3}
	if err := whole.balance("a"); err != nil {
		t.Error(err)
	}
	short := whole
	short.Pending--
	if err := short.balance("a"); err == nil {
		t.Error("an entry is gone, and the account adds up")
	}
}

func TestAnEmptyFolderHasNoAccounts(t *testing.T) {
	b, err := Read(t.TempDir(), t.TempDir())
	if err != nil || len(b.Sessions) > 0 || len(b.Uplinks) > 0 {
		t.Errorf("got %+v, %v of an empty folder", b, err)
	}
}

func TestAValueThatIsWrongIsAnError(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "sessions.db")
	store, err := sessionstore.Open(path, sessionstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store.Start(nobody{})
	store.PutSession(&durable.Session{Number: store.NextSession(), ClientID: "somebody"}, 1)
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	b, err := Read(folder, t.TempDir())
	if _, ok := b.Sessions["somebody"]; !ok || err != nil {
		t.Errorf("got %+v, %v", b, err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.ReplaceAll(file, []byte("somebody"), []byte("nobodies"))
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(folder, t.TempDir()); err == nil || !strings.Contains(err.Error(), "bad values") {
		t.Errorf("got %v, want a bad value", err)
	}
}

// nobody takes no completions.
type nobody struct{}

func (nobody) Completed([]durable.Completion) {}
func (nobody) Read(durable.Batch)             {}
func (nobody) Changed()                       {}
