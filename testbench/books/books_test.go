package books

import "testing"

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
