package boltfile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// A step of a Look is one read transaction, and ends after so many keys or so much time.
	lookKeys  = 4096
	lookTime  = 50 * time.Millisecond
	lookBytes = 1 << 20
	// lookForget is how many bytes are read before the memory of the mapping is given back.
	lookForget = 4 << 20
)

// OpenReader opens the file at path for reading only: nothing is written to it, it is not made, and
// others may read it as well. Update fails. The errors are those of Open.
func OpenReader(path string, k Kind) (*File, error) {
	o := Options{Format: k.Format, Version: k.Version, readOnly: true}
	if err := o.validate(); err != nil {
		return nil, err
	}
	f := &File{path: path, opts: o}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("boltfile: open %s: %w", path, err)
	}
	if err := f.check(); err != nil {
		f.db.Close()
		return nil, fmt.Errorf("boltfile: open %s: %w", path, err)
	}
	return f, nil
}

// Look reads a file that is in use, in steps that hold up nobody, and says what it holds and which
// values are damaged. The tree itself it does not judge: a page that cannot be read is a fault, and
// what is behind it in its bucket is not seen. Values are counted as they come: of other moments at
// the begin than at the end.
func (f *File) Look(ctx context.Context, k Kind) (*Report, error) {
	r := &Report{Kind: k.Format, Bytes: f.Size(), Values: make(map[string]uint64)}
	i := inspection{kind: k, report: r}
	var names []string
	if err := f.View(func(tx *bbolt.Tx) error {
		r.TxID = uint64(tx.ID())
		s := tx.DB().Stats()
		r.Free = s.FreePageN + s.PendingPageN
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			names = append(names, string(name))
			return nil
		})
	}); err != nil {
		return nil, err
	}
	touched := 0
	for _, name := range names {
		if err := f.lookInto(ctx, name, &i, &touched); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			r.fault("bucket %s: %v", name, err)
		}
	}
	i.finish()
	return r, nil
}

func (f *File) lookInto(ctx context.Context, name string, i *inspection, touched *int) error {
	var next []byte
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		more = false
		began, keys, bytes := time.Now(), 0, 0
		if err := f.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(name))
			if b == nil {
				return nil
			}
			c := b.Cursor()
			for k, v := c.Seek(next); k != nil; k, v = c.Next() {
				if keys == lookKeys || bytes >= lookBytes || keys&63 == 63 && time.Since(began) >= lookTime {
					next, more = slices.Clone(k), true
					return nil
				}
				keys, bytes = keys+1, bytes+len(k)+len(v)
				if err := i.value(name, k, v); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if *touched += bytes; *touched >= lookForget {
			*touched = 0
			f.Forget()
		}
	}
	return nil
}
