package sessionstore

import (
	"reflect"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/clock"
)

// FuzzValues feeds every decoder with values whose checksum is right: what is refused is refused
// with an error, what is read is written and read again to the same. (Not to the same bytes: a
// uvarint can be longer than it needs to be.)
func FuzzValues(f *testing.F) {
	m := note("x")
	m.HasExpiry, m.Expiry, m.Properties = true, 7, []byte{1, 1}
	n := durable.SessionNumber(1)
	key := seqKey(n)
	q := &session{number: n, incoming: []packet.ID{4}, outgoing: []durable.Outgoing{{ID: 1, Seq: 3}, {ID: 2, Received: true}}, high: 4}
	for _, s := range []durable.Seq{2, 3, 9} {
		q.queue.Push(s, 1)
	}
	for _, v := range [][]byte{
		appendRecord(nil, key, []receiver{
			{Receiver: durable.Receiver{Session: 1, QoS: 2, PacketID: 5}},
			{Receiver: durable.Receiver{Session: 200, QoS: 1, Retain: true, SubscriptionIDs: []uint32{1, 300}, Share: "$share/g/a"}},
		}, m),
		appendCursor(nil, key, q, 10, new(linger)),
		appendSession(nil, key, &durable.Session{
			ClientID: "c", Identity: "u", Version: 5, Expiry: 3, Connected: true, Will: &durable.Will{Message: m},
			Subscriptions: []durable.Subscription{{Filter: "a/#", QoS: 1, ID: 3}},
		}),
		appendRetained(nil, key, m),
		appendDelayed(nil, key, &durable.Delayed{Message: m, Delay: 60}),
		appendBoot(nil, key[:4], &clock.Boot{ID: "b", LastMillis: 3, Synced: true, WallOffset: -4}),
		appendTotal(nil, &Counts{Accepted: 3}),
		appendCounters(nil, 7, 8),
	} {
		f.Add(v[1 : len(v)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		value := func(key []byte) []byte { return appendChecksum(append([]byte{valueVersion}, body...), 0, key) }

		if s, err := parseSession(key, value(key)); err == nil {
			same(t, &s, func() (durable.Session, error) { return parseSession(key, appendSession(nil, key, &s)) })
		}
		if c, err := parseCursor(key, value(key)); err == nil && c.high < 1<<40 && len(c.open) < 1000 {
			q := &session{number: n, high: c.high, outgoing: c.outgoing, incoming: c.incoming, ledger: c.ledger}
			for _, s := range c.open {
				q.queue.Push(s, 1)
			}
			q.queue.Push(c.high+1, 1) // otherwise it would be done with everything
			same(t, &c, func() (cursor, error) { return parseCursor(key, appendCursor(nil, key, q, c.asOf, new(linger))) })
		}
		if m, err := parseRetained(key, value(key)); err == nil {
			same(t, m, func() (message.Message, error) {
				m, err := parseRetained(key, appendRetained(nil, key, m))
				return *m, err
			})
		}
		if d, err := parseDelayed(key, value(key)); err == nil {
			same(t, &d, func() (durable.Delayed, error) { return parseDelayed(key, appendDelayed(nil, key, &d)) })
		}
		if b, err := parseBoot(key[:4], value(key[:4])); err == nil {
			same(t, &b, func() (clock.Boot, error) { return parseBoot(key[:4], appendBoot(nil, key[:4], &b)) })
		}
		if c, err := parseTotal(value(keyTotal)); err == nil {
			same(t, &c, func() (Counts, error) { return parseTotal(appendTotal(nil, &c)) })
		}
		if s, n, err := parseCounters(value(keyCounters)); err == nil {
			if s2, n2, err := parseCounters(appendCounters(nil, s, n)); err != nil || s2 != s || n2 != n {
				t.Errorf("counters %d, %d became %d, %d, %v", s, n, s2, n2, err)
			}
		}
		if r, err := parseRecord(key, value(key)); err == nil {
			same(t, &r, func() (record, error) { return parseRecord(key, appendRecord(nil, key, r.Receivers, r.Message)) })
		}
	})
}

func same[V any](t *testing.T, v *V, again func() (V, error)) {
	t.Helper()
	w, err := again()
	if err != nil || !reflect.DeepEqual(*v, w) {
		t.Errorf("%+v\nbecame %+v, %v", *v, w, err)
	}
}

// record is a whole record, as restore and read see it together.
type record struct {
	Receivers []receiver
	Message   *message.Message
}

func parseRecord(key, value []byte) (r record, err error) {
	d, err := openValue(key, value)
	if err != nil {
		return r, err
	}
	sized := d
	d.receivers(true, func(e *durable.Receiver) { r.Receivers = append(r.Receivers, receiver{Receiver: *e}) })
	r.Message = d.message()
	if err := d.end(); err != nil {
		return r, err
	}
	sized.receivers(false, func(*durable.Receiver) {})
	if n := sized.messageSize(); sized.end() != nil || n != len(r.Message.Topic)+len(r.Message.Properties)+len(r.Message.Payload) {
		panic("a message was measured wrongly")
	}
	return r, nil
}
