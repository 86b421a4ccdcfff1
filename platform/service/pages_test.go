package service

import (
	"slices"
	"strings"
	"testing"
)

func TestOnlyUnchangedPagesOfTheProgramAreForgotten(t *testing.T) {
	const smaps = `00400000-007d8000 r-xp 00000000 08:01 1311                               /usr/bin/dunlin
Size:               3936 kB
Rss:                2340 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
007d8000-00c00000 r--p 003d8000 08:01 1311                               /usr/bin/dunlin
Anonymous:             0 kB
00c00000-00c40000 r--p 00800000 08:01 1311                               /usr/bin/dunlin
Anonymous:             8 kB
00c40000-00c80000 rw-p 00840000 08:01 1311                               /usr/bin/dunlin
Anonymous:             0 kB
00c80000-00cc0000 rw-p 00000000 00:00 0
Anonymous:             0 kB
10000000-10010000 r--s 00000000 08:01 1312                               /data/sessions.db
Anonymous:             0 kB
7fff0000-7fff2000 r-xp 00000000 00:00 0                                  [vdso]
Anonymous:             0 kB
`
	got, err := unchanged(strings.NewReader(smaps), "/usr/bin/dunlin")
	if err != nil {
		t.Fatal(err)
	}
	if want := []mapping{{0x400000, 0x7d8000}, {0x7d8000, 0xc00000}}; !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if _, err := unchanged(strings.NewReader("x-y r-xp 0 08:01 1 /usr/bin/dunlin\n"), "/usr/bin/dunlin"); err == nil {
		t.Error("a range without numbers is taken")
	}
}

func TestTheProgramGoesOnAfterItWasForgotten(t *testing.T) {
	for range 3 {
		if err := ForgetProgram(); err != nil {
			t.Fatal(err)
		}
	}
}
