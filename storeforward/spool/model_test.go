package spool

import (
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
)

// model is what a spool should hold, in plain variables.
type model struct {
	t *testing.T
	r *rand.Rand
	b *bench

	accepted int          // messages, numbered from 1: the payload
	done     map[int]bool // with an outcome of ours
	received map[int]bool // the last note that was answered
	source   durable.Seq  // highest source given
	window   []Record     // in flight
	known    map[int]bool // were in flight at QoS 2 when the spool was opened: the remote end may know them
	size     int          // of the window
	after    Seq          // where Next continues
	bounded  bool         // messages may give way
}

func number(r Record) int { return int(binary.BigEndian.Uint32(r.Message.Payload)) }

func (m *model) append() {
	var batch []*message.Message
	source := durable.Seq(0)
	qos := byte(1 + m.r.IntN(2))
	repeat := 0
	if qos == 2 {
		// Some of them were handed over before.
		repeat = m.r.IntN(3)
		repeat = min(repeat, int(m.source))
		source = m.source + 1 - durable.Seq(repeat)
	}
	n := 1 + m.r.IntN(20)
	for range repeat {
		batch = append(batch, &message.Message{Topic: "again", Payload: []byte{0, 0, 0, 0}})
	}
	for range n {
		m.accepted++
		payload := make([]byte, 4+m.r.IntN(300))
		binary.BigEndian.PutUint32(payload, uint32(m.accepted))
		batch = append(batch, &message.Message{Topic: "t", Payload: payload, QoS: qos})
	}
	if qos == 2 {
		m.source += durable.Seq(n)
	}
	for _, err := range m.b.add(qos, source, batch...) {
		if err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *model) read() {
	n := m.r.IntN(m.size + 1 - len(m.window))
	for _, r := range m.b.next(m.after, n) {
		if m.window = append(m.window, r); r.Seq <= m.after {
			m.t.Fatalf("message %d came behind %d", r.Seq, m.after)
		}
		m.after = r.Seq
		m.check(r)
	}
}

func (m *model) check(r Record) {
	n := number(r)
	if n < 1 || n > m.accepted {
		m.t.Fatalf("message %d is number %d of %d", r.Seq, n, m.accepted)
	}
	if want, known := m.received[n]; known && want != r.Received {
		m.t.Fatalf("message %d: received is %v, want %v", n, r.Received, want)
	}
}

func (m *model) step() {
	switch k := m.r.IntN(10); {
	case k < 3:
		m.append()
	case k < 6:
		m.read()
	case k < 8 && len(m.window) > 0:
		for range 1 + m.r.IntN(len(m.window)) {
			i := m.r.IntN(len(m.window))
			r := m.window[i]
			m.b.Done(r.Seq, Outcome(1+m.r.IntN(int(TooLarge))))
			m.done[number(r)] = true
			m.window = append(m.window[:i:i], m.window[i+1:]...)
			if len(m.window) == 0 {
				break
			}
		}
	case k == 8 && len(m.window) > 0:
		if m.r.IntN(8) == 0 {
			m.b.forget()
			for n := range m.received {
				m.received[n] = false
			}
			break
		}
		r := m.window[m.r.IntN(len(m.window))]
		m.b.received(r.Seq)
		m.received[number(r)] = true
	case k == 9:
		time.Sleep(time.Duration(m.r.IntN(1500)) * time.Millisecond)
		synctest.Wait()
	}
}

// reopen replaces the spool by what its file holds and compares all of it with the model.
func (m *model) reopen(clean bool) {
	inFlight := m.window
	if clean {
		m.b = m.b.restart()
	} else {
		old := m.b
		m.b = m.b.crash()
		old.Close(m.t.Context())
	}
	m.b.adds()
	l := m.b.Ledger()
	if l.Accepted != uint64(m.accepted) {
		m.t.Fatalf("accepted %d, want %d", l.Accepted, m.accepted)
	}
	all := m.b.next(m.b.Floor(), m.accepted+1)
	found := make(map[int]bool)
	last := 0
	for _, r := range all {
		n := number(r)
		m.check(r)
		if n <= last {
			m.t.Fatalf("message %d behind %d", n, last)
		}
		last = n
		found[n] = true
		if m.done[n] && clean {
			m.t.Fatalf("message %d is done, and came back after a clean stop", n)
		}
	}
	missing := 0
	for n := 1; n <= m.accepted; n++ {
		if !found[n] && !m.done[n] {
			missing++
		}
	}
	if gave := int(l.Out[Full]); missing > gave || !m.bounded && missing > 0 {
		m.t.Fatalf("%d messages are missing, %d gave way", missing, gave)
	}
	for n, known := range m.known {
		if known && !found[n] && !m.done[n] {
			m.t.Fatalf("message %d was in flight and is gone", n)
		}
	}
	m.known = make(map[int]bool)
	for _, r := range inFlight {
		m.known[number(r)] = r.QoS == 2
		if !found[number(r)] {
			m.t.Fatalf("message %d was in flight and is gone", number(r))
		}
	}
	if pending := uint64(len(all)); pending != l.Pending {
		m.t.Fatalf("read %d, pending %d", pending, l.Pending)
	}
	// What came back although it was done is not done.
	for n := range found {
		delete(m.done, n)
	}
	m.b.GiveBack(m.b.Floor())
	m.window, m.after = nil, m.b.Floor()
}

func TestRandomOperationsAgainstAModel(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 15
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			m := &model{t: t, r: rand.New(rand.NewPCG(seed, 2)), done: map[int]bool{}, received: map[int]bool{}, bounded: seed%2 == 1}
			o := Options{}
			m.size = 1 + m.r.IntN(64)
			if m.bounded {
				o.MaxBytes = 30000
			}
			m.b = open(t, filepath.Join(t.TempDir(), "uplink-a.db"), o)
			for range 5 {
				for range 40 {
					m.step()
				}
				m.reopen(m.r.IntN(2) == 0)
			}
			m.b.Close(t.Context())
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
