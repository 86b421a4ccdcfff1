package sessionstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"dunlin/core/durable"
)

func TestAnAbsentStoreTakesNothingAndHasNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	o := testOptions()
	o.Absent = errors.New("it belongs to somebody else")
	b := start(t, path, o)
	for name, ask := range map[string]func(k durable.Token){
		"a session":          func(k durable.Token) { b.PutSession(&durable.Session{Number: 1}, k) },
		"the end of one":     func(k durable.Token) { b.EndSession(1, k) },
		"a message":          func(k durable.Token) { b.Append(durable.Append{Message: note("m"), Receivers: receivers(1, 1)}, k) },
		"a retained message": func(k durable.Token) { b.Append(durable.Append{Message: note("r"), Retained: true}, k) },
		"a delayed message":  func(k durable.Token) { b.Delay(durable.Delayed{Message: note("d"), Delay: 60}, k) },
	} {
		k := b.next()
		ask(k)
		b.Flush()
		if d := b.a.wait(t, k); d.Err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	for m := range b.Retained() {
		t.Errorf("got %v", m)
	}
	if n := len(b.Sessions()) + len(b.Delayed()); n != 0 || b.History().Current().Number == 0 {
		t.Errorf("%d are restored, boot %d", n, b.History().Current().Number)
	}
	if s := b.State(); s != durable.Failing {
		t.Errorf("it says that it is %v", s)
	}
	if err := b.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a file: %v", err)
	}
}
