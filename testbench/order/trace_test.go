package order

import (
	"fmt"
	"strings"
	"testing"
)

// line returns a line of a trace; %p stands for the file, %s for a socket.
func line(format string) string {
	format = strings.ReplaceAll(format, "%p", escape("/data/sessions.db"))
	return strings.ReplaceAll(format, "%s", escape("socket:[9]")) + "\n"
}

func TestOnlyTheWholeOrderHolds(t *testing.T) {
	written := line(fmt.Sprintf(`7 pwrite64(8<%%p>, "%s", 4096, 16384) = 4096`, escape("..one..")))
	synced := line(`7 fdatasync(8<%p>) = 0`)
	meta := line(`7 pwrite64(8<%p>, "\x00", 4096, 4096) = 4096`)
	answer := line(`7 write(9<%s>, "\x40\x02\x00\x01", 4) = 4`)
	begins := line(`8 fdatasync(8<%p> <unfinished ...>`)
	ends := line(`8 <... fdatasync resumed>)  = 0`)
	for _, test := range []struct {
		name, trace, wantErr string // "" = none
	}{
		{"whole", written + synced + meta + synced + answer, ""},
		{"two threads", written + begins + ends + meta + begins + ends + answer, ""},
		{"two threads at the meta page", written + synced +
			line(`8 pwrite64(8<%p>, "\x00", 4096, 0 <unfinished ...>`) + synced +
			line(`8 <... pwrite64 resumed>) = 4096`) + synced + answer, ""},
		{"not written", synced + meta + synced + answer, "was not written before"},
		{"not synced", written + meta + answer, "was not synced before"},
		{"meta page not synced", written + synced + meta + answer + synced, "was not synced with its meta page before"},
		{"synced before the meta page was written", written + synced + synced + meta + answer, "was not synced with its meta page"},
		{"the last sync has not ended", written + synced + meta + begins + answer + ends, "was not synced with its meta page"},
		{"a sync that began too early", begins + written + ends + meta + synced + answer, "was not made to count by a meta page"},
		{"a sync that failed", written + line(`7 fdatasync(8<%p>) = -1 EIO (Input/output error)`) + meta + synced + answer, "was not made to count by a meta page"},
		{"no answer", written + synced + meta + synced, "no acknowledgement"},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls, err := parse(strings.NewReader("6 +++ exited with 0 +++\n" + test.trace))
			if err != nil {
				t.Fatal(err)
			}
			err = hold(calls, "/sessions.db", []message{{"one", []byte{0x40, 2, 0, 1}}})
			switch {
			case err == nil && test.wantErr != "":
				t.Errorf("got no error, want %q", test.wantErr)
			case err != nil && (test.wantErr == "" || !strings.Contains(err.Error(), test.wantErr)):
				t.Errorf("got %v, want %q", err, test.wantErr)
			}
		})
	}
}
