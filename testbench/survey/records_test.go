package survey

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// This file is a second opinion on what a file holds: it reads the leaf pages of a bbolt file one by
// one, whether anything leads to them or not, and takes every element whose checksum is right.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// whole reports whether a value ends with the CRC-32C of key and value.
func whole(key, value string) bool {
	n := len(value) - 4
	if n < 1 {
		return false
	}
	sum := crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, []byte(value[:n]))
	return sum == binary.BigEndian.Uint32([]byte(value[n:]))
}

// copies counts how often each key with its value is in the leaves of a file, whole.
func copies(file []byte) map[string]int {
	all := make(map[string]int)
	u32 := func(at int) int { return int(binary.NativeEndian.Uint32(file[at:])) }
	for page := 0; page+pageSize <= len(file); page += pageSize {
		const leaf = 2
		if binary.NativeEndian.Uint64(file[page:]) != uint64(page/pageSize) || binary.NativeEndian.Uint16(file[page+8:]) != leaf {
			continue
		}
		end := min(len(file), page+pageSize*(1+u32(page+12)%1024))
		for i := range int(binary.NativeEndian.Uint16(file[page+10:])) {
			at := page + 16*(i+1)
			if at+16 > end {
				break
			}
			from, key, value := at+u32(at+4), u32(at+8), u32(at+12)
			if u32(at) != 0 || from < 0 || key > pageSize || value > 1<<26 || from+key+value > end {
				continue
			}
			if k, v := string(file[from:from+key]), string(file[from+key:from+key+value]); whole(k, v) {
				all[k+v]++
			}
		}
	}
	return all
}

// content is what bbolt finds in a file, by bucket and key. A file that it cannot read has nothing.
func content(t *testing.T, path string) map[string]map[string]string {
	t.Helper()
	all := make(map[string]map[string]string)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if errors.Is(err, os.ErrNotExist) {
		return all
	}
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			in := make(map[string]string)
			all[string(name)] = in
			return b.ForEach(func(k, v []byte) error {
				in[string(k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// original is a data folder before it is damaged.
type original struct {
	folder string
	files  map[string]*originalFile
}

type originalFile struct {
	content map[string]map[string]string
	copies  map[string]int
}

func examine(t *testing.T, folder string) *original {
	t.Helper()
	o := &original{folder: folder, files: make(map[string]*originalFile)}
	for _, name := range []string{"sessions.db", spoolName} {
		path := filepath.Join(folder, name)
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f := &originalFile{content: content(t, path), copies: copies(file)}
		for _, bucket := range []string{"messages", "sessions", "retained", "due"} {
			for k, v := range f.content[bucket] {
				if f.copies[k+v] == 0 {
					t.Fatalf("the second opinion does not see %x of %s in %s", k, bucket, name)
				}
			}
		}
		o.files[name] = f
	}
	return o
}

// expected is what a broker must keep of a damaged file.
type expected struct {
	o        *originalFile
	must     map[string]map[string]string // by bucket and key
	left     map[string]bool              // keys of messages that a client has taken since
	records  int
	intact   int
	sessions map[string]bool // client identifiers that must be known
}

// expect says what must be kept: records and sessions of which there is a whole copy anywhere, since
// the first never change and an old one of the second is better than none; retained and delayed
// messages if no copy was damaged, since an old one of those may be wrong.
func (o *original) expect(name string, damaged []byte) *expected {
	f := o.files[name]
	x := &expected{o: f, must: make(map[string]map[string]string), left: make(map[string]bool), sessions: make(map[string]bool)}
	now := copies(damaged)
	for _, bucket := range []string{"sessions", "messages", "retained", "due"} {
		in := make(map[string]string)
		x.must[bucket] = in
		for k, v := range f.content[bucket] {
			x.records++
			switch n := now[k+v]; {
			case n == 0, bucket != "messages" && bucket != "sessions" && n < f.copies[k+v]:
				continue
			case bucket == "sessions":
				x.sessions[clientOf(v)] = true
			case bucket == "messages" && name == "sessions.db" && !x.wanted(v):
				continue // for a session that is gone, or perhaps taken already
			}
			x.intact++
			in[k] = v
		}
	}
	return x
}

// clientOf is the client identifier in the record of a session.
func clientOf(v string) string {
	n, k := binary.Uvarint([]byte(v[3:]))
	return v[3+k : 3+k+int(n)]
}

// wanted reports whether the first receiver of a record is a session that must be kept and has taken
// nothing.
func (x *expected) wanted(v string) bool {
	n, k := binary.Uvarint([]byte(v[1:]))
	if n == 0 {
		return false
	}
	session, _ := binary.Uvarint([]byte(v[1+k:]))
	record, is := x.must["sessions"][string(binary.BigEndian.AppendUint64(nil, session))]
	return is && !partly(clientOf(record))
}

// compare looks at what the broker has kept, and returns how much of the original is not there.
func (x *expected) compare(t *testing.T, path, what string, out *outcome) (lost int) {
	t.Helper()
	got := content(t, path)
	for bucket, must := range x.must {
		for k, v := range must {
			switch g, is := got[bucket][k]; {
			case bucket == "messages" && x.left[k], is && (g == v || bucket == "sessions"):
				out.kept++
			default:
				t.Errorf("%s: %s %x is whole in the damaged file, and was not kept", what, bucket, k)
			}
		}
		for k := range x.o.content[bucket] {
			if _, is := got[bucket][k]; !is && !x.left[k] {
				lost++
			}
		}
	}
	for k, v := range got["messages"] {
		if was, is := x.o.content["messages"][k]; is && was != v && !out.anew || !whole(k, v) { // numbers begin anew, too
			t.Errorf("%s: message %x is another one", what, k)
		}
	}
	return lost
}

// sessionOf is the client identifier of the first receiver of a record, "" = it is gone.
func (x *expected) sessionOf(v string) string {
	n, k := binary.Uvarint([]byte(v[1:]))
	if n == 0 {
		return ""
	}
	session, _ := binary.Uvarint([]byte(v[1+k:]))
	record, is := x.o.content["sessions"][string(binary.BigEndian.AppendUint64(nil, session))]
	if !is {
		return ""
	}
	return clientOf(record)
}

// payload is the payload of a record: it is in front of the checksum, behind its length.
func (o *original) payload(v string) string {
	for _, size := range []int{158, 20008, 108} {
		if at := len(v) - 4 - size; at > 2 {
			b := binary.AppendUvarint(nil, uint64(size))
			if v[at-len(b):at] == string(b) {
				return v[at : at+size]
			}
		}
	}
	return ""
}

// partly reports whether a session has taken some of its messages.
func partly(name string) bool {
	var n int
	if _, err := fmt.Sscanf(name, "away-%d", &n); err != nil {
		return true
	}
	return n < absent && n%3 == 0
}
