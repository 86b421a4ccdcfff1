package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/storeforward/sessionstore"
	"dunlin/storeforward/spool"
)

// Line is one line of an archive; exactly one of its fields is set.
type Line struct {
	Archive  *Header   `json:"archive,omitempty"`
	File     *File     `json:"file,omitempty"`
	Boot     *Boot     `json:"boot,omitempty"`
	Delayed  *Delayed  `json:"delayed,omitempty"`
	Session  *Session  `json:"session,omitempty"`
	Cursor   *Cursor   `json:"cursor,omitempty"`
	Retained *Message  `json:"retained,omitempty"`
	Gone     *Gone     `json:"gone,omitempty"`
	Total    *Counts   `json:"total,omitempty"`
	Counters *Counters `json:"counters,omitempty"`
	Message  *Record   `json:"message,omitempty"`
	Spooled  *Spooled  `json:"spooled,omitempty"`
	Spool    *Spool    `json:"spool,omitempty"`
	Damaged  *Damaged  `json:"damaged,omitempty"`
	End      *End      `json:"end,omitempty"`
}

// Version is that of the form of archives.
const Version = 1

// Header says what an archive is.
type Header struct {
	Version int    `json:"version"` // of the form
	By      string `json:"by"`      // version of the program
	At      string `json:"at,omitempty"`
}

// File says which file follows.
type File struct {
	Name    string `json:"name"`
	Format  string `json:"format"`
	Version uint32 `json:"version"` // of the format
}

// End is behind the last line.
type End struct {
	Lines    uint64 `json:"lines"`    // before it
	Checksum string `json:"checksum"` // CRC-32C of these lines, hexadecimal
}

// Stamp is a moment by the boot of the machine.
type Stamp struct {
	Boot   uint32 `json:"boot,omitempty"`
	Millis uint64 `json:"millis,omitempty"`
	Wall   int64  `json:"wall,omitempty"` // Unix milliseconds, 0 = not known
}

// Message is an Application Message. Payload and Bytes exclude each other.
type Message struct {
	Topic      string  `json:"topic"`
	Payload    *string `json:"payload,omitempty"`    // if it is UTF-8
	Bytes      []byte  `json:"bytes,omitempty"`      // the payload if it is not, base64
	Properties []byte  `json:"properties,omitempty"` // as in MQTT 5.0, base64
	QoS        byte    `json:"qos"`
	Retain     bool    `json:"retain,omitempty"`
	Expiry     *uint32 `json:"expiry,omitempty"` // seconds
	Publisher  string  `json:"publisher,omitempty"`
	Source     string  `json:"source,omitempty"` // uplink that it came down from
	Received   Stamp   `json:"received"`
}

// Boot is a boot of the machine.
type Boot struct {
	Number     uint32 `json:"number"`
	ID         string `json:"id"`
	LastMillis uint64 `json:"last_millis"`
	WallOffset int64  `json:"wall_offset,omitempty"`
	Synced     bool   `json:"synced,omitempty"`
}

// Delayed is a message that is to be published later.
type Delayed struct {
	Seq     uint64  `json:"seq"`
	Delay   uint32  `json:"delay"` // seconds
	Message Message `json:"message"`
}

// Session is the record of a session.
type Session struct {
	Number        uint64         `json:"number"`
	ClientID      string         `json:"client_id"`
	Identity      string         `json:"identity,omitempty"`
	Version       byte           `json:"version"` // of MQTT, as in CONNECT
	Expiry        uint32         `json:"expiry"`
	Connected     bool           `json:"connected,omitempty"`
	Left          Stamp          `json:"left"`
	Subscriptions []Subscription `json:"subscriptions,omitempty"`
	Will          *Will          `json:"will,omitempty"`
}

// Subscription is one of a session.
type Subscription struct {
	Filter            string `json:"filter"`
	QoS               byte   `json:"qos"`
	NoLocal           bool   `json:"no_local,omitempty"`
	RetainAsPublished bool   `json:"retain_as_published,omitempty"`
	RetainHandling    byte   `json:"retain_handling,omitempty"`
	ID                uint32 `json:"id,omitempty"`
}

// Will is that of a session.
type Will struct {
	Delay   uint32  `json:"delay,omitempty"`
	Message Message `json:"message"`
}

// Counts are those of a ledger.
type Counts struct {
	Accepted uint64            `json:"accepted"`
	Left     map[string]uint64 `json:"left,omitempty"` // by outcome
}

// Cursor is how far a session is.
type Cursor struct {
	Session  uint64     `json:"session"`
	AsOf     uint64     `json:"as_of"`
	High     uint64     `json:"high"`
	Open     []uint64   `json:"open,omitempty"`
	Outgoing []Outgoing `json:"outgoing,omitempty"`
	Incoming []uint16   `json:"incoming,omitempty"`
	Counts
}

// Outgoing is a packet identifier of QoS 2; without Seq its PUBREC was seen.
type Outgoing struct {
	ID  uint16 `json:"id"`
	Seq uint64 `json:"seq,omitempty"`
}

// Gone takes back what a line before has said.
type Gone struct {
	Session uint64 `json:"session,omitempty"`
	Delayed uint64 `json:"delayed,omitempty"`
}

// Counters are the last numbers that were given.
type Counters struct {
	Seq     uint64 `json:"seq"`
	Session uint64 `json:"session"`
}

// Record is a message in sessions.db.
type Record struct {
	Seq       uint64     `json:"seq"`
	Receivers []Receiver `json:"receivers"`
	Message   Message    `json:"message"`
}

// Receiver is who is to get a message.
type Receiver struct {
	Session  uint64   `json:"session"`
	QoS      byte     `json:"qos"`
	Retain   bool     `json:"retain,omitempty"`
	IDs      []uint32 `json:"ids,omitempty"`
	PacketID uint16   `json:"packet_id,omitempty"`
	Share    string   `json:"share,omitempty"`
}

// Spooled is a message in the spool of an uplink.
type Spooled struct {
	Seq     uint64  `json:"seq"`
	QoS     byte    `json:"qos"` // with which it goes up
	Message Message `json:"message"`
}

// Spool is the state of the spool of an uplink.
type Spool struct {
	Last     uint64      `json:"last"`
	Floor    uint64      `json:"floor"`
	Limit    uint64      `json:"limit"`
	Source   uint64      `json:"source,omitempty"`
	Done     [][2]uint64 `json:"done,omitempty"` // above floor, from and to
	Received []uint64    `json:"received,omitempty"`
	Pending  uint64      `json:"pending"`
	Bytes    int64       `json:"pending_bytes"`
	Counts
}

// Damaged is a value that cannot be read.
type Damaged struct {
	Bucket string `json:"bucket"`
	Key    []byte `json:"key"`
	Value  []byte `json:"value"`
	Error  string `json:"error"`
}

// ofSessions makes the line of a value of sessions.db.
func ofSessions(v *sessionstore.Value) (l Line) {
	switch {
	case v.Gone && v.Bucket == "sessions":
		l.Gone = &Gone{Session: numberOf(v.Key)}
	case v.Gone:
		l.Gone = &Gone{Delayed: numberOf(v.Key)}
	case v.Err != nil:
		l.Damaged = damaged(v.Bucket, v.Key, v.Raw, v.Err)
	case v.Boot != nil:
		l.Boot = (*Boot)(v.Boot)
	case v.Delayed != nil:
		l.Delayed = &Delayed{uint64(v.Delayed.Seq), v.Delayed.Delay, ofMessage(v.Delayed.Message)}
	case v.Session != nil:
		l.Session = ofSession(v.Session)
	case v.Cursor != nil:
		l.Cursor = ofCursor(v.Cursor)
	case v.Retained != nil:
		l.Retained = new(ofMessage(v.Retained))
	case v.Total != nil:
		l.Total = new(ofCounts(v.Total))
	case v.Counters != nil:
		l.Counters = &Counters{uint64(v.Counters.Seq), uint64(v.Counters.Session)}
	case v.Message != nil:
		l.Message = ofRecord(v.Message)
	}
	return l
}

// ofSpool makes the line of a value of a spool.
func ofSpool(v *spool.Value) (l Line) {
	switch {
	case v.Err != nil:
		l.Damaged = damaged(v.Bucket, v.Key, v.Raw, v.Err)
	case v.Message != nil:
		l.Spooled = &Spooled{uint64(v.Message.Seq), v.Message.QoS, ofMessage(v.Message.Message)}
	case v.State != nil:
		l.Spool = ofState(v.State)
	}
	return l
}

func damaged(bucket string, key, raw []byte, err error) *Damaged {
	return &Damaged{bucket, bytes.Clone(key), bytes.Clone(raw), err.Error()}
}

func numberOf(key []byte) (n uint64) {
	for _, b := range key {
		n = n<<8 | uint64(b)
	}
	return n
}

func ofMessage(m *message.Message) Message {
	x := Message{
		Topic: m.Topic, Properties: m.Properties, QoS: m.QoS, Retain: m.Retain,
		Publisher: m.Publisher, Source: m.Source, Received: Stamp(m.Received),
	}
	if m.HasExpiry {
		x.Expiry = &m.Expiry
	}
	switch {
	case len(m.Payload) == 0:
	case utf8.Valid(m.Payload):
		x.Payload = new(string(m.Payload))
	default:
		x.Bytes = m.Payload
	}
	return x
}

var (
	errTwoPayloads = errors.New("a message has payload and bytes; leave one out")
	errQoS         = errors.New("there is no QoS above 2")
)

func (x *Message) message() (*message.Message, error) {
	m := &message.Message{
		Topic: x.Topic, QoS: x.QoS, Retain: x.Retain, Publisher: x.Publisher, Source: x.Source, Received: message.Stamp(x.Received),
	}
	if len(x.Properties) > 0 {
		m.Properties = x.Properties
	}
	if x.Expiry != nil {
		m.HasExpiry, m.Expiry = true, *x.Expiry
	}
	switch {
	case x.Payload != nil && x.Bytes != nil:
		return nil, errTwoPayloads
	case x.Payload != nil && *x.Payload != "":
		m.Payload = []byte(*x.Payload)
	case len(x.Bytes) > 0:
		m.Payload = x.Bytes
	}
	if x.QoS > 2 {
		return nil, errQoS
	}
	return m, nil
}

func ofSession(s *durable.Session) *Session {
	x := &Session{
		Number: uint64(s.Number), ClientID: s.ClientID, Identity: s.Identity, Version: byte(s.Version), Expiry: s.Expiry,
		Connected: s.Connected, Left: Stamp(s.Left),
	}
	for _, sub := range s.Subscriptions {
		x.Subscriptions = append(x.Subscriptions, Subscription{
			sub.Filter, byte(sub.QoS), sub.NoLocal, sub.RetainAsPublished, sub.RetainHandling, sub.ID,
		})
	}
	if s.Will != nil {
		x.Will = &Will{s.Will.Delay, ofMessage(s.Will.Message)}
	}
	return x
}

func (x *Session) session() (*durable.Session, error) {
	s := &durable.Session{
		Number: durable.SessionNumber(x.Number), ClientID: x.ClientID, Identity: x.Identity, Version: packet.Version(x.Version),
		Expiry: x.Expiry, Connected: x.Connected, Left: message.Stamp(x.Left),
	}
	for _, sub := range x.Subscriptions {
		if sub.QoS > 2 || sub.RetainHandling > 3 {
			return nil, fmt.Errorf("subscription %.80q has a QoS or a retain handling that does not exist", sub.Filter)
		}
		s.Subscriptions = append(s.Subscriptions, durable.Subscription{
			Filter: sub.Filter, QoS: packet.QoS(sub.QoS), NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished,
			RetainHandling: sub.RetainHandling, ID: sub.ID,
		})
	}
	if x.Will != nil {
		m, err := x.Will.Message.message()
		if err != nil {
			return nil, err
		}
		s.Will = &durable.Will{Delay: x.Will.Delay, Message: m}
	}
	return s, nil
}

func ofCounts(c *sessionstore.Counts) Counts {
	x := Counts{Accepted: c.Accepted}
	for o, n := range c.Left {
		if n > 0 {
			if x.Left == nil {
				x.Left = make(map[string]uint64)
			}
			x.Left[durable.Outcome(o).String()] = n
		}
	}
	return x
}

func (x *Counts) counts() (c sessionstore.Counts, err error) {
	c.Accepted = x.Accepted
	for name, n := range x.Left {
		o := durable.ParseOutcome(name)
		if o == 0 {
			return c, fmt.Errorf("messages do not leave a queue by %.40q", name)
		}
		c.Left[o] = n
	}
	return c, nil
}

func ofCursor(c *sessionstore.Cursor) *Cursor {
	x := &Cursor{Session: uint64(c.Session), AsOf: uint64(c.AsOf), High: uint64(c.High), Open: convert[uint64](c.Open), Incoming: convert[uint16](c.Incoming), Counts: ofCounts(&c.Counts)}
	for _, o := range c.Outgoing {
		x.Outgoing = append(x.Outgoing, Outgoing{uint16(o.ID), uint64(o.Seq)})
	}
	return x
}

func (x *Cursor) cursor() (*sessionstore.Cursor, error) {
	counts, err := x.counts()
	if err != nil {
		return nil, err
	}
	c := &sessionstore.Cursor{
		Session: durable.SessionNumber(x.Session), AsOf: durable.Seq(x.AsOf), High: durable.Seq(x.High),
		Open: convert[durable.Seq](x.Open), Incoming: convert[packet.ID](x.Incoming), Counts: counts,
	}
	for _, o := range x.Outgoing {
		c.Outgoing = append(c.Outgoing, durable.Outgoing{ID: packet.ID(o.ID), Seq: durable.Seq(o.Seq), Received: o.Seq == 0})
	}
	return c, nil
}

// convert makes numbers of one type of those of another; none stay none.
func convert[To, From ~uint64 | ~uint16](from []From) (to []To) {
	for _, n := range from {
		to = append(to, To(n))
	}
	return to
}

func ofRecord(r *sessionstore.Record) *Record {
	x := &Record{Seq: uint64(r.Seq), Message: ofMessage(r.Message), Receivers: make([]Receiver, 0, len(r.Receivers))}
	for _, to := range r.Receivers {
		x.Receivers = append(x.Receivers, Receiver{
			uint64(to.Session), byte(to.QoS), to.Retain, to.SubscriptionIDs, uint16(to.PacketID), to.Share,
		})
	}
	return x
}

func (x *Record) record() (*sessionstore.Record, error) {
	m, err := x.Message.message()
	if err != nil {
		return nil, err
	}
	r := &sessionstore.Record{Seq: durable.Seq(x.Seq), Message: m}
	for _, to := range x.Receivers {
		if to.QoS > 2 {
			return nil, errQoS
		}
		r.Receivers = append(r.Receivers, durable.Receiver{
			Session: durable.SessionNumber(to.Session), QoS: packet.QoS(to.QoS), Retain: to.Retain,
			SubscriptionIDs: to.IDs, PacketID: packet.ID(to.PacketID), Share: to.Share,
		})
	}
	return r, nil
}

func ofState(st *spool.State) *Spool {
	x := &Spool{
		Last: uint64(st.Last), Floor: uint64(st.Floor), Limit: uint64(st.Limit), Source: uint64(st.Source),
		Received: convert[uint64](st.Received), Pending: st.Ledger.Pending, Bytes: st.Ledger.PendingBytes,
		Counts: Counts{Accepted: st.Ledger.Accepted},
	}
	for _, p := range st.Spans {
		x.Done = append(x.Done, [2]uint64{uint64(p.Lo), uint64(p.Hi)})
	}
	for o := spool.Delivered; o <= spool.Damaged; o++ {
		if n := st.Ledger.Out[o]; n > 0 {
			if x.Left == nil {
				x.Left = make(map[string]uint64)
			}
			x.Left[o.String()] = n
		}
	}
	return x
}

func (x *Spool) state() (*spool.State, error) {
	st := &spool.State{
		Last: spool.Seq(x.Last), Floor: spool.Seq(x.Floor), Limit: spool.Seq(x.Limit), Source: durable.Seq(x.Source),
		Received: convert[spool.Seq](x.Received),
	}
	st.Ledger.Accepted, st.Ledger.Pending, st.Ledger.PendingBytes = x.Accepted, x.Pending, x.Bytes
	at := st.Floor
	for _, p := range x.Done {
		lo, hi := spool.Seq(p[0]), spool.Seq(p[1])
		if lo <= at || hi < lo {
			return nil, fmt.Errorf("the spans that are done do not ascend at %d", p[0])
		}
		st.Spans, at = append(st.Spans, spool.Span{Lo: lo, Hi: hi}), hi
	}
	for name, n := range x.Left {
		o := spool.Delivered
		for o <= spool.Damaged && o.String() != name {
			o++
		}
		if o > spool.Damaged {
			return nil, fmt.Errorf("messages do not leave a spool by %.40q", name)
		}
		st.Ledger.Out[o] = n
	}
	at = st.Floor
	for _, s := range st.Received {
		if s <= at {
			return nil, fmt.Errorf("the numbers that were received do not ascend at %d", s)
		}
		at = s
	}
	return st, nil
}

// marshal is a line as text, without characters escaped that only matter to browsers.
func marshal(dst *bytes.Buffer, l *Line) error {
	e := json.NewEncoder(dst)
	e.SetEscapeHTML(false)
	return e.Encode(l)
}
