package spool

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dunlin/core/message"
)

func TestSpansHoldWhatAPlainSetHolds(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		const n = 60
		var st state
		var set [n + 2]bool // what is done, 1 to n
		for {
			lo := Seq(1 + r.IntN(n))
			if set[lo] {
				if !slices.Contains(set[1:n+1], false) {
					break
				}
				continue
			}
			hi := lo
			for r.IntN(3) > 0 && hi < n && !set[hi+1] {
				hi++
			}
			st.done(lo, hi)
			for s := lo; s <= hi; s++ {
				set[s] = true
			}
			for s := Seq(1); s <= n; s++ {
				if st.isDone(s) != set[s] {
					t.Fatalf("seed %d: isDone(%d) = %v after %d-%d, %+v", seed, s, !set[s], lo, hi, st)
				}
				want := s
				for want <= n && set[want] {
					want++
				}
				if got := st.undone(s); got != want {
					t.Fatalf("seed %d: undone(%d) = %d; want %d, %+v", seed, s, got, want, st)
				}
			}
			for i := 1; i < len(st.spans); i++ {
				if st.spans[i-1].hi+1 >= st.spans[i].lo {
					t.Fatalf("seed %d: spans touch: %+v", seed, st.spans)
				}
			}
		}
		if st.floor != n || len(st.spans) != 0 {
			t.Fatalf("seed %d: everything is done, but %+v", seed, st)
		}
	}
}

func TestStateReadsBackWhatWasWritten(t *testing.T) {
	st := state{last: 1000, floor: 10, limit: 70, source: 1 << 40, spans: []span{{12, 12}, {20, 900}}, received: []Seq{11, 13}}
	st.ledger = Ledger{Accepted: 1000, Pending: 108, PendingBytes: 1 << 33}
	st.ledger.Out[Delivered] = 5
	st.ledger.Out[Damaged] = 7
	b := st.append(nil)
	got, ok := parseState(b)
	if !ok {
		t.Fatal("not read back")
	}
	if d := cmp.Diff(st, got, cmp.AllowUnexported(state{}, span{})); d != "" {
		t.Error(d)
	}
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if _, ok := parseState(c); ok {
				t.Fatalf("a flipped bit %d of byte %d was not noticed", bit, i)
			}
		}
	}
}

func TestRecordReadsBackWhatWasWritten(t *testing.T) {
	tests := []struct {
		name string
		m    message.Message
		qos  byte
	}{
		{"small", message.Message{Topic: "a", Payload: []byte{}, QoS: 1}, 1},
		{"everything", message.Message{
			Topic: "plant/a/temp", Payload: []byte("21.5"), Properties: []byte{0x26, 0, 1, 'k', 0, 1, 'v'}, QoS: 2, Retain: true,
			HasExpiry: true, Expiry: 0xFFFFFFFF, Publisher: "sensor-7",
			Received: message.Stamp{Boot: 0xFFFFFFFF, Millis: 1<<64 - 1, Wall: -1 << 63},
		}, 2},
		{"lower than published", message.Message{Topic: "a", Payload: []byte("x"), QoS: 2, Received: message.Stamp{Boot: 3, Millis: 1000}}, 1},
		{"expiry of zero", message.Message{Topic: "a", Payload: []byte("x"), QoS: 1, HasExpiry: true}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := appendRecord(nil, 7, &tt.m, tt.qos)
			if len(b) > maxRecord(&tt.m) {
				t.Errorf("%d bytes, more than the bound of %d", len(b), maxRecord(&tt.m))
			}
			m, qos, ok := parseRecord(7, b)
			if !ok || qos != tt.qos {
				t.Fatalf("parseRecord: qos %d, %v", qos, ok)
			}
			if d := cmp.Diff(&tt.m, m); d != "" {
				t.Error(d)
			}
			if _, _, ok := parseRecord(8, b); ok {
				t.Error("accepted under another key")
			}
			for i := range b {
				c := bytes.Clone(b)
				c[i] ^= 0x10
				if _, _, ok := parseRecord(7, c); ok {
					t.Fatalf("damage of byte %d was not noticed", i)
				}
			}
		})
	}
}

func FuzzParseRecord(f *testing.F) {
	m := message.Message{Topic: "a/b", Payload: []byte("x"), QoS: 1, HasExpiry: true, Expiry: 5, Received: message.Stamp{Boot: 1, Millis: 2, Wall: 3}}
	f.Add(appendRecord(nil, 1, &m, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A checksum keeps the fuzzer out: give it what is behind.
		b = appendChecksum(1, b)
		m, qos, ok := parseRecord(1, b)
		if !ok {
			return
		}
		again, qos2, ok := parseRecord(1, appendRecord(nil, 1, m, qos))
		if d := cmp.Diff(m, again); !ok || qos != qos2 || d != "" {
			t.Errorf("%v %d %d %s", ok, qos, qos2, d)
		}
	})
}

func appendChecksum(seq Seq, b []byte) []byte {
	sum := checksum(seq, b)
	return append(bytes.Clone(b), byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

func FuzzParseState(f *testing.F) {
	st := state{last: 9, floor: 1, spans: []span{{3, 4}}, received: []Seq{2}}
	b := st.append(nil)
	f.Add(b[:len(b)-checksumBytes])
	f.Fuzz(func(t *testing.T, b []byte) { parseState(b) })
}
