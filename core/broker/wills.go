package broker

import (
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/message"
)

// A will is kept with the record of its session, also of one that ends with its connection: that has
// a record for its will alone, with an expiry of 0. It goes with the next commit, and nobody waits
// for it. When it is published, the message and the record without it are one transaction, so that a
// crash finds either of them.
//
// After a crash the wills of all that were connected wait for their clients, max(Will Delay Interval,
// Limits.WillGrace). When the broker is stopped, they are published at once: the connections are
// closed by the server (MQTT5 §3.1.2.5), and whoever reads them later should know at which time.

// delayWill publishes the will after a while, unless the client is back before or the session
// ends (MQTT5 §3.1.3.2.2).
func (b *Broker) delayWill(m *member, wait time.Duration) {
	m.away.willDue = &willDelay{b: b, m: m}
	b.loop.At(b.loop.Now()+wait, m.away.willDue)
}

// willDelay publishes a will.
type willDelay struct {
	loop.Place
	b *Broker
	m *member
}

func (w *willDelay) Fire(time.Duration) time.Duration {
	w.b.releaseWill(w.m)
	return 0
}

// releaseWill publishes the member's will at the end of this turn, if it has one and may publish it.
// Until then nothing is written about the session, which would be without the will.
func (b *Broker) releaseWill(m *member) {
	if m.will == nil {
		return
	}
	w := *m.will.Message
	b.setWill(m, nil)
	m.releasing = true
	w.Received = b.now() // its Message Expiry Interval begins when it is published
	b.wills = append(b.wills, will{m: m, msg: &w})
}

// will is a will message that is to be published.
type will struct {
	m         *member
	msg       *message.Message
	published bool
	released  bool
	late      []func() // what is to be written then
}

// setWill gives a session its will, nil = none. All wills are in memory: of those of clients that are
// connected, which cost them one packet of up to maxConnect bytes, Limits.MaxWillBytes is the bound.
func (b *Broker) setWill(m *member, w *durable.Will) {
	b.willBytes += willSize(w) - willSize(m.will)
	m.will = w
}

// roomForWill says whether a client may bring a will; m is its session, nil if there is none.
func (b *Broker) roomForWill(m *member, w *durable.Will) bool {
	if w == nil {
		return true
	}
	n := b.willBytes + willSize(w)
	if m != nil {
		n -= willSize(m.will)
	}
	return n <= b.limits.MaxWillBytes
}

// willSize is about how much memory a will takes, in bytes.
func willSize(w *durable.Will) int64 {
	const rest = 256 // what it is made of besides
	if w == nil {
		return 0
	}
	return int64(rest + len(w.Message.Topic) + len(w.Message.Payload) + len(w.Message.Properties))
}

// publishWills publishes the wills of the turn, each in one transaction with what is to be written
// about its session. If the store takes nothing, that is put off with the will.
func (b *Broker) publishWills() {
	for len(b.wills) > 0 {
		wills := b.wills
		b.wills = nil
		for i := range wills {
			w := &wills[i]
			b.store.Together(true)
			stored := true
			if w.m.grant.MayPublish(realTopic(w.msg.Topic)) {
				stored = b.publishMessage(w.msg, true, func(err error) { b.willSettled(w, err) })
			} else {
				b.drop(DropPublishDenied, w.m.clientID, w.msg.Topic)
				b.log.Warn("will denied", "client_id", w.m.clientID, "user", w.m.user, "topic", w.msg.Topic)
			}
			w.m.releasing, w.published = false, true
			w.late = b.afterWills[w.m]
			delete(b.afterWills, w.m)
			if stored {
				b.willReleased(w)
			}
			b.store.Together(false)
		}
	}
}

// willReleased writes what had to wait for a will.
func (b *Broker) willReleased(w *will) {
	if w.released {
		return
	}
	w.released = true
	for _, f := range w.late {
		f()
	}
	if m := w.m; len(w.late) == 0 && m.state.Durable() && !m.ended {
		b.put(m, nil)
	}
	w.late = nil
}

// willSettled is the answer of a will's durable destinations.
func (b *Broker) willSettled(w *will, err error) {
	if err != nil {
		b.log.Error("will not stored", "client_id", w.m.clientID, "topic", w.msg.Topic, "err", err)
	}
	if w.published { // else it is over at once, and publishWills goes on
		b.willReleased(w)
	}
}

// afterWill puts off what is to be written about a session whose will is about to be published.
func (b *Broker) afterWill(m *member, f func()) {
	if b.afterWills == nil {
		b.afterWills = make(map[*member][]func())
	}
	b.afterWills[m] = append(b.afterWills[m], f)
}

// keepWill gives the will of a session that ends with its connection a record.
func (b *Broker) keepWill(m *member) {
	if m.will == nil || m.state.Durable() {
		return
	}
	n := b.store.NextSession()
	if b.kept == nil {
		b.kept = make(map[*member]durable.SessionNumber)
	}
	b.kept[m] = n
	b.store.PutSession(&durable.Session{
		Number: n, ClientID: m.clientID, Identity: m.user, Version: m.version, Connected: true, Will: m.will,
	}, 0)
}

// dropKept removes the record that keepWill has written, if it has.
func (b *Broker) dropKept(m *member) {
	n, ok := b.kept[m]
	if !ok {
		return
	}
	if m.releasing {
		b.afterWill(m, func() { b.dropKept(m) })
		return
	}
	delete(b.kept, m)
	b.store.EndSession(n, 0)
}

// afterCrash writes down that the connections of the last process have ended: the next crash must
// not begin their time anew. Sessions that were about to end then end now.
func (b *Broker) afterCrash() {
	for _, m := range b.superseded {
		b.endSession(m)
	}
	for _, m := range b.crashed {
		if !m.ended {
			b.put(m, nil)
		}
	}
	b.superseded, b.crashed = nil, nil
}
