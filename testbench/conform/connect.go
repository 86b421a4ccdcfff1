package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"dunlin/core/packet"
)

// Checks of CONNECT, CONNACK, sessions and the end of connections.

func firstPacketIsConnect(t *T) {
	none := t.props("")
	t.refuses(true,
		fault{"PUBLISH", frame(0x30, str(t.topic("a"))+none+"x"), nil},
		fault{"SUBSCRIBE", frame(0x82, "\x00\x01"+none+str(t.topic("a"))+"\x00"), nil},
		fault{"PINGREQ", frame(0xC0, ""), nil},
		fault{"DISCONNECT", frame(0xE0, ""), nil})
}

func secondConnectCloses(t *T) {
	t.refuses(false, fault{"", t.greeting("MQTT", byte(t.v), 2, "", str(t.id("f"))), violation})
}

func silenceBeforeConnectCloses(t *T) {
	t.broker("limits.connect_timeout=1s")
	p := t.dial()
	p.closed()
}

func wrongProtocolNameIsRefused(t *T) {
	t.refuses(true, fault{"", t.greeting("MQTX", byte(t.v), 2, "", str(t.id("x"))), []packet.ReasonCode{packet.UnsupportedProtocolVersion}})
}

func unknownVersionIsRefused(t *T) {
	p := t.dial()
	if t.v5() {
		p.send(t.greeting("MQTT", 6, 2, "", str(t.id("x"))))
	} else {
		p.send(t.greeting("MQTT", 2, 2, "", str(t.id("x"))))
	}
	code, said := p.ended()
	if said && code != packet.UnsupportedProtocolVersion || !said && (t.ours || !t.v5()) { // MUST before 5.0
		t.failf("closed with %s (0x%02X), said: %v", code, byte(code), said)
	}
}

func version31IsTakenOrRefused(t *T) {
	p := t.dial()
	p.send(frame(0x10, str("MQIsdp")+"\x03\x02\x00\x3C"+str(t.id("x"))))
	h, body, err := p.Packet(t.ctx)
	switch {
	case err != nil && t.ctx.Err() == nil:
		t.refused("MQTT 3.1")
	case err != nil:
		t.failf("no answer: %v", err)
	case h.Type != packet.CONNACK || len(body) != 2:
		t.failf("got %s %x", h.Type, body)
	case body[1] == 1:
		p.closed()
		t.refused("MQTT 3.1")
	case body[1] != 0:
		t.failf("CONNACK says %d, want 0 or 1", body[1])
	}
	p.Version = packet.V31
	p.silent()
	p.subscribe(t.topic("a"), qos(1))
	p.publish(text(t.topic("a"), "x", 1))
	p.await(packet.PUBACK)
	p.take("x")
	p.silent()
}

// present compares Session Present.
func (p *peer) present(want bool) {
	if p.t.v == packet.V31 {
		return // it has none
	}
	if p.connack.SessionPresent != want {
		p.t.failf("Session Present is %v, want %v", p.connack.SessionPresent, want)
	}
}

func cleanStartDiscardsTheSession(t *T) {
	p := t.connect("c", lasting)
	p.present(false)
	p.subscribe(t.topic("a"), qos(1))
	p.leave()
	p = t.connect("c", lasting, func(c *packet.Connect) { c.CleanStart = true })
	p.present(false)
	t.connect("p").deliver(text(t.topic("a"), "x", 1))
	p.silent()
}

func sessionIsResumed(t *T) {
	p := t.connect("c", lasting)
	p.subscribe(t.topic("a"), qos(2))
	p.leave()
	pub := t.connect("p")
	pub.deliver(text(t.topic("a"), "1", 1))
	pub.deliver(text(t.topic("a"), "2", 2))
	p = t.connect("c", lasting)
	p.present(true)
	p.takeAll("1", "2")
	pub.deliver(text(t.topic("a"), "3", 0))
	p.take("3")
	p.silent()
}

func sessionIsNewIfThereIsNone(t *T) {
	p := t.connect("c", lasting)
	p.present(false)
	p.silent()
}

func sessionSurvivesAKill(t *T) {
	t.broker()
	p := t.connect("c", lasting)
	p.subscribe(t.topic("a"), qos(2))
	p.leave()
	pub := t.connect("p")
	pub.deliver(text(t.topic("a"), "1", 1))
	pub.deliver(text(t.topic("a"), "2", 2))
	t.restart()
	t.connect("p").deliver(text(t.topic("a"), "3", 1)) // for a session that is not connected yet
	p = t.connect("c", lasting)
	p.present(true)
	p.takeAll("1", "2", "3")
	p.silent()
}

func sessionEndsWithItsConnection(t *T) {
	p := t.connect("c", func(c *packet.Connect) { c.CleanStart = !t.v5() })
	p.subscribe(t.topic("a"), qos(1))
	p.leave()
	p = t.connect("c", func(c *packet.Connect) { c.CleanStart = false })
	p.present(false)
	t.connect("p").deliver(text(t.topic("a"), "x", 1))
	p.silent()
	if !t.v5() {
		t.lasting = map[string]bool{t.id("c"): true}
	}
}

func expiry(seconds uint32) func(*packet.Connect) {
	return func(c *packet.Connect) { c.CleanStart, c.SessionExpiry = false, seconds }
}

func sessionExpires(t *T) {
	p := t.connect("c", expiry(1))
	p.subscribe(t.topic("a"), qos(1))
	p.leave()
	// Each look renews the session: so the looks become rarer.
	for wait := uint32(2); wait < 5; wait++ {
		t.pass(wait)
		p = t.connect("c", expiry(1))
		if !p.connack.SessionPresent {
			return
		}
		p.leave()
	}
	t.failf("the session lives on, seconds after its end")
}

// pass lets seconds pass at the broker, by its own clock: they have when the will of a client comes
// whose delay they are.
func (t *T) pass(seconds uint32) {
	was := t.v
	defer func() { t.v = was }()
	t.v = packet.V5
	t.passed++
	name := fmt.Sprint("clock", t.passed)
	watch := t.connect("watch" + name)
	watch.subscribe(t.topic(name), qos(0))
	p := t.connect(name, lasting, will(packet.Will{Topic: []byte(t.topic(name)), Payload: []byte(name), Delay: seconds}))
	p.send(frame(0x36, "")) // ends it without a DISCONNECT
	p.ended()
	watch.take(name)
	watch.leave()
}

func disconnectChangesTheExpiry(t *T) {
	p := t.connect("c", lasting)
	p.send(packet.AppendDisconnect(nil, &packet.Disconnect{HasSessionExpiry: true}, t.v))
	p.closed()
	t.connect("c", lasting).present(false)
}

func disconnectCannotMakeASessionLast(t *T) {
	p := t.connect("c")
	p.send(packet.AppendDisconnect(nil, &packet.Disconnect{HasSessionExpiry: true, SessionExpiry: 10}, t.v))
	p.closed(packet.ProtocolError)
}

func shortenedExpiryIsTold(t *T) {
	t.broker("sessions.max_expiry=1h")
	p := t.connect("c", expiry(7200))
	if !p.connack.HasSessionExpiry || p.connack.SessionExpiry != 3600 {
		t.failf("the CONNACK says %d, want 3600", p.connack.SessionExpiry)
	}
	t.lasting = nil
}

func clientIDIsAssigned(t *T) {
	nameless := func(c *packet.Connect) { c.ClientID = nil }
	p, q := t.connect("", nameless), t.connect("", nameless)
	p.silent() // q has not taken it over
	q.silent()
	if !t.v5() {
		return
	}
	if len(p.connack.AssignedClientID) == 0 || same(p.connack.AssignedClientID, q.connack.AssignedClientID) {
		t.failf("assigned %q and %q", p.connack.AssignedClientID, q.connack.AssignedClientID)
	}
}

func assignedClientIDResumes(t *T) {
	p := t.connect("", lasting, func(c *packet.Connect) { c.ClientID = nil })
	delete(t.lasting, "")
	id := p.connack.AssignedClientID
	p.subscribe(t.topic("a"), qos(1))
	p.leave()
	t.connect("", lasting, func(c *packet.Connect) { c.ClientID = id }).present(true)
}

func usualClientIDsAreAccepted(t *T) {
	for _, id := range []string{"0", "abcdefghijklmnopqrstuvw", "xyzABCDEFGHIJKLMNOPQRST", "UVWXYZ0123456789"} {
		p := t.connect("", func(c *packet.Connect) { c.ClientID = []byte(id) })
		p.silent()
		p.Close()
	}
}

func namelessLastingSessionIsRefused(t *T) {
	p := t.try("", func(c *packet.Connect) { c.ClientID, c.CleanStart = nil, false })
	t.lasting = nil
	// Code 2 of 3.1.1, whichever name the parser has for it.
	if p.connack.Code == packet.Success {
		t.failf("it is accepted")
	}
	p.closed()
}

func reservedClientIDIsRefused(t *T) {
	if !t.ours {
		panic(result{elsewhere, "which client identifiers a broker refuses is its own"})
	}
	p := t.try("", func(c *packet.Connect) { c.ClientID = []byte("$uplink/cloud") })
	if p.connack.Code == packet.Success || t.v5() && p.connack.Code != packet.ClientIdentifierNotValid {
		t.failf("CONNACK says %s", p.connack.Code)
	}
	p.closed()
}

func takeoverClosesTheOldConnection(t *T) {
	old := t.connect("c", lasting)
	old.subscribe(t.topic("a"), qos(1))
	p := t.connect("c", lasting)
	p.present(true)
	code, said := old.ended()
	if t.v5() && (!said || code != packet.SessionTakenOver) {
		t.failf("the old connection is closed with %s (0x%02X), said: %v", code, byte(code), said)
	}
	t.connect("p").deliver(text(t.topic("a"), "x", 1))
	p.take("x")
	p.silent()
}

func refusedConnectIsTheEnd(t *T) {
	p, spy := t.dial(), t.connect("spy")
	spy.subscribe(t.topic("#"), qos(0))
	b := t.greeting("MQTT", 9, 2, "", str(t.id("x")))
	b = append(b, frame(0x82, "\x00\x01"+t.props("")+str(t.topic("a"))+"\x00")...)
	b = append(b, frame(0x30, str(t.topic("a"))+t.props("")+"x")...)
	p.send(b)
	p.unfit = true
	p.ended() // with a CONNACK at most
	spy.silent()
}

func connackIsFirstAndOnce(t *T) {
	p := t.connect("c", lasting)
	p.subscribe(t.topic("a"), qos(1))
	p.leave()
	t.connect("p").deliver(text(t.topic("a"), "x", 1))
	p = t.connect("c", lasting) // expects the CONNACK as the first packet
	p.take("x")
	p.silent()
}

func connackHasItsForm(t *T) {
	p := t.dial()
	p.send(t.greeting("MQTT", byte(t.v), 2, "", str(t.id("x"))))
	h, body := p.next()
	if h.Type != packet.CONNACK || h.Flags != 0 || body[0] != 0 || body[1] != 0 || !t.v5() && len(body) != 2 {
		t.failf("got %s, flags %x, %x", h.Type, h.Flags, body)
	}
}

func passwordWithoutUserName(t *T) {
	b := t.greeting("MQTT", byte(t.v), 0x42, "", str(t.id("x"))+str("secret"))
	if !t.v5() { // [MQTT-3.1.2-22] of 3.1.1
		t.refuses(true, fault{"", b, nil})
		return
	}
	p := t.dial()
	p.send(b)
	h, body := p.next()
	if h.Type != packet.CONNACK {
		t.failf("got %s", h.Type)
	}
	if code := packet.ReasonCode(body[1]); code == packet.MalformedPacket || code == packet.ProtocolError {
		t.failf("the form is refused: %s", code)
	}
}

func userNameWithoutPassword(t *T) {
	p := t.dial()
	p.send(t.greeting("MQTT", byte(t.v), 0x82, "", str(t.id("x"))+str("somebody")))
	h, body := p.next()
	if h.Type != packet.CONNACK || packet.ReasonCode(body[1]) == packet.MalformedPacket || packet.ReasonCode(body[1]) == packet.ProtocolError {
		t.failf("got %s %x", h.Type, body)
	}
}

func userNameFlagsMatchThePayload(t *T) {
	id := str(t.id("x"))
	t.refuses(true,
		fault{"flags without fields", t.greeting("MQTT", byte(t.v), 0xC2, "", id), malformed},
		fault{"no password", t.greeting("MQTT", byte(t.v), 0xC2, "", id+str("u")), malformed},
		fault{"fields without flags", t.greeting("MQTT", byte(t.v), 0x02, "", id+str("u")+str("p")), malformed},
		fault{"user name is not UTF-8", t.greeting("MQTT", byte(t.v), 0x82, "", id+str("\xC0\xAF")), malformed})
}

func keepAliveClosesAfterOneAndAHalf(t *T) {
	started := time.Now()
	p := t.connect("c", func(c *packet.Connect) { c.KeepAlive = 1 })
	if p.connack.HasServerKeepAlive {
		t.refused("a keep alive of one second")
	}
	p.closed(packet.KeepAliveTimeout)
	if took := time.Since(started); took < 1500*time.Millisecond {
		t.failf("closed after %v, want 1.5 s", took)
	}
}

// pingsKeepAlive has one client that pings and one that does not: when the second is closed, the
// first is not. If this process itself was too late with a ping, it begins again.
func pingsKeepAlive(t *T) {
	keepAlive := func(c *packet.Connect) { c.KeepAlive = 1 }
	for try := 0; ; try++ {
		p := t.connect(fmt.Sprint("c", try), keepAlive)
		off, idle := t.connect(fmt.Sprint("off", try)), t.connect(fmt.Sprint("idle", try), keepAlive)
		if idle.connack.HasServerKeepAlive {
			t.refused("a keep alive of one second")
		}
		last, late := time.Now(), false
		alive := true // as long as p gets its answers
		for open := true; open && alive && !late; {
			p.send(packet.AppendPingreq(nil))
			h, _, err := p.Packet(t.ctx)
			alive = err == nil && h.Type == packet.PINGRESP
			now := time.Now()
			late = now.Sub(last) > time.Second
			last = now
			// A moment that ends early with the connection.
			idle.SetReadDeadline(now.Add(100 * time.Millisecond))
			_, err = idle.Read(make([]byte, 1))
			open = errors.Is(err, os.ErrDeadlineExceeded) && t.ctx.Err() == nil
		}
		switch {
		case t.ctx.Err() != nil:
			t.failf("a client that is silent stays connected")
		case late:
			continue
		case !alive:
			t.failf("a client that pings is closed")
		}
		p.silent()
		off.silent() // keep alive 0 is off
		return
	}
}

func serverKeepAliveIsTold(t *T) {
	t.with("limits.max_keep_alive=60s")
	p := t.connect("c", func(c *packet.Connect) { c.KeepAlive = 65535 })
	if !p.connack.HasServerKeepAlive {
		t.refused("a keep alive of the server's")
	}
	if p.connack.ServerKeepAlive == 65535 {
		t.failf("it is %d", p.connack.ServerKeepAlive)
	}
}

// Wills.

func willIsPublished(t *T) {
	for name, end := range map[string]func(p *peer){
		"lost connection": func(p *peer) { p.Close() },
		"protocol error":  func(p *peer) { p.send(frame(0x36, "")) },
		"takeover":        func(*peer) { t.connect("c") },
	} {
		t.where = name
		spy := t.connect("spy")
		spy.subscribe(t.topic("will"), qos(1))
		end(t.connect("c", will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("gone"), QoS: 1})))
		if m := spy.take("gone"); m.QoS != 1 || m.Retain {
			t.failf("QoS %d, retain %v", m.QoS, m.Retain)
		}
		spy.Close()
	}
}

func willGoesWithDisconnectWithWill(t *T) {
	spy := t.connect("spy")
	spy.subscribe(t.topic("will"), qos(0))
	p := t.connect("c", will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("gone")}))
	p.send(packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.DisconnectWithWill}, t.v))
	spy.take("gone")
}

func disconnectDeletesTheWill(t *T) {
	spy := t.connect("spy")
	spy.subscribe(t.topic("will"), qos(0))
	t.connect("c", will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("gone")})).leave()
	spy.silent()
	// It does not come back with the next connection, either.
	p := t.connect("c")
	p.send(frame(0x36, "")) // ends it without a DISCONNECT
	p.ended()
	spy.silent()
}

func willIsPublishedOnce(t *T) {
	spy := t.connect("spy")
	spy.subscribe(t.topic("will"), qos(0))
	t.connect("c", lasting, will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("gone")})).Close()
	spy.take("gone")
	p := t.connect("c", lasting)
	p.send(frame(0x36, "")) // ends it without a DISCONNECT
	p.closed()
	spy.silent()
}

func willWaitsForItsDelay(t *T) {
	spy := t.connect("spy")
	spy.subscribe(t.topic("will"), qos(0))
	p := t.connect("c", lasting, will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("gone"), Delay: 2}))
	started := time.Now()
	p.send(frame(0x36, ""))
	spy.take("gone")
	if took := time.Since(started); took < 2*time.Second {
		t.failf("it came after %v, its delay is 2 s", took)
	}
}

func reconnectCancelsTheDelayedWill(t *T) {
	const delay = 2
	for try := 0; ; try++ {
		name := fmt.Sprint("c", try)
		spy := t.connect("spy")
		spy.subscribe(t.topic(name), qos(0))
		p := t.connect(name, lasting, will(packet.Will{Topic: []byte(t.topic(name)), Payload: []byte("gone"), Delay: delay}))
		started := time.Now()
		p.send(frame(0x36, ""))
		p.ended()
		t.connect(name, lasting)
		if time.Since(started) > delay*time.Second {
			continue // this process was too late: the will may have come
		}
		t.pass(delay) // since then: the will would have come before
		spy.silent()
		return
	}
}

func delayedWillComesWhenTheSessionEnds(t *T) {
	spy := t.connect("spy")
	spy.subscribe(t.topic("will"), qos(0))
	p := t.connect("c", expiry(1), will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("gone"), Delay: 600}))
	p.send(frame(0x36, ""))
	p.closed()
	spy.take("gone")
}

func willIsRetained(t *T) {
	topic := t.topic("will")
	if t.retained == nil {
		t.retained = map[string]bool{topic: true}
	}
	spy := t.connect("spy")
	spy.subscribe(topic, qos(0))
	t.connect("c", will(packet.Will{Topic: []byte(topic), Payload: []byte("gone"), Retain: true})).Close()
	spy.take("gone")
	late := t.connect("late")
	late.subscribe(topic, qos(0))
	if m := late.take("gone"); !m.Retain {
		t.failf("RETAIN is not set")
	}
	// One that is not to be retained is not.
	t.connect("d", will(packet.Will{Topic: []byte(t.topic("will")), Payload: []byte("again")})).Close()
	spy.take("again")
	last := t.connect("last")
	last.subscribe(topic, qos(0))
	last.take("gone")
}

func willCarriesItsProperties(t *T) {
	block := "\x03" + str("text/plain") + "\x08" + str(t.topic("answer")) + "\x09" + str("c1") +
		"\x26" + str("b") + str("2") + "\x26" + str("a") + str("1") + "\x26" + str("b") + str("2")
	spy := t.connect("spy")
	spy.subscribe(t.topic("will"), qos(0))
	started := time.Now()
	t.connect("c", will(packet.Will{
		Topic: []byte(t.topic("will")), Payload: []byte("gone"), Properties: []byte(block), HasExpiry: true, Expiry: 100,
	})).Close()
	m := spy.take("gone")
	if got := string(m.AppendTravelling(nil)); got != block {
		t.failf("it came with %q, want %q", got, block)
	}
	if !m.HasExpiry || m.Expiry > 100 || m.Expiry < t.left(100, started) {
		t.failf("message expiry is %d", m.Expiry)
	}
}

// left is what has to be left at least of an expiry that began after started.
func (t *T) left(seconds uint32, started time.Time) uint32 {
	spent := uint32(time.Since(started)/time.Second) + 1
	return seconds - min(seconds, spent)
}

func badWillsAreRefused(t *T) {
	id, body := str(t.id("x")), t.props("")+str(t.topic("w"))+str("p")
	c := func(flags byte, payload string) []byte { return t.greeting("MQTT", byte(t.v), flags, "", payload) }
	t.refuses(true,
		fault{"QoS 3", c(0x1E, id+body), malformed},
		fault{"QoS without a will", c(0x0A, id), malformed},
		fault{"retain without a will", c(0x22, id), malformed},
		fault{"flag without a will", c(0x06, id), malformed},
		fault{"topic is not UTF-8", c(0x06, id+t.props("")+str("\xC0\xAF")+str("p")), malformed})
	if t.ours {
		t.refuses(true, fault{"topic has a wildcard", c(0x06, id+t.props("")+str("a/#")+str("p")), append(violation, packet.TopicNameInvalid)})
	}
}

func willAboveMaximumQoSIsRefused(t *T) {
	t.with("limits.max_qos=1")
	p := t.connect("look")
	if !p.connack.HasMaximumQoS {
		t.refused("a maximum QoS below 2")
	}
	q := t.try("c", will(packet.Will{Topic: []byte(t.topic("w")), QoS: p.connack.MaximumQoS + 1}))
	if q.connack.Code != packet.QoSNotSupported {
		t.failf("CONNACK says %s", q.connack.Code)
	}
	q.closed()
}

// Ends.

func pingIsAnswered(t *T) {
	p := t.connect("c")
	p.send(packet.AppendPingreq(nil))
	if body := p.expect(packet.PINGRESP); len(body) != 0 {
		t.failf("PINGRESP has a body: %x", body)
	}
}

func nothingComesAfterDisconnect(t *T) {
	p, spy := t.connect("c"), t.connect("spy")
	spy.subscribe(t.topic("a"), qos(0))
	b := packet.AppendDisconnect(nil, &packet.Disconnect{}, t.v)
	publish, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(t.topic("a")), Payload: []byte("x")}, t.v)
	p.send(append(b, publish...))
	if code, said := p.ended(); said {
		t.failf("it is answered %s", code)
	}
	spy.silent()
}

func serverSaysNoDisconnectBeforeConnack(t *T) {
	t.refuses(true,
		fault{"PINGREQ", frame(0xC0, ""), nil},
		fault{"rubbish", frame(0x36, str("a")), nil},
		fault{"DISCONNECT", frame(0xE0, ""), nil})
}

// connackCodesAreOfTheirTable makes the broker refuse a CONNECT in ways of many kinds. What it
// answers is parsed strictly; that it is the right code stands in other checks.
func connackCodesAreOfTheirTable(t *T) {
	id := str(t.id("x"))
	for name, b := range map[string][]byte{
		"version":         t.greeting("MQTT", 9, 2, "", id),
		"name":            t.greeting("HTTP", 5, 2, "", id),
		"reserved flag":   t.greeting("MQTT", 5, 3, "", id),
		"property":        t.greeting("MQTT", 5, 2, "\x7F\x00", id),
		"property twice":  t.greeting("MQTT", 5, 2, "\x21\x00\x01\x21\x00\x01", id),
		"will topic":      t.greeting("MQTT", 5, 6, "", id+"\x00"+str("a/#")+str("p")),
		"client id":       t.greeting("MQTT", 5, 2, "", str("\xFF")),
		"no client id":    t.greeting("MQTT", 5, 2, "", ""),
		"a method":        t.greeting("MQTT", 5, 2, "\x15"+str("nonsense"), id),
		"a strange user":  t.greeting("MQTT", 5, 0xC2, "", id+str("nobody")+str("knows")),
		"a reserved name": t.greeting("MQTT", 5, 2, "", str("$SYS/x")),
	} {
		t.where = name
		p := t.dial()
		p.Write(b)
		h, body, err := p.Packet(t.ctx)
		switch {
		case err != nil && t.ctx.Err() != nil:
			t.failf("no answer")
		case err != nil: // closed without a word
		case h.Type != packet.CONNACK:
			t.failf("got %s", h.Type)
		default:
			v := packet.V5
			if len(body) == 2 { // to one whose version it does not know
				v = packet.V311
			}
			c, err := packet.ParseConnack(body, v)
			t.must(err)
			if c.Code != packet.Success {
				p.closed()
			}
		}
		p.Close()
	}
	t.where = ""
}

func shutdownIsTold(t *T) {
	t.broker()
	p := t.connect("c")
	t.must(t.own.Stop(t.ctx))
	p.closed(packet.ServerShuttingDown)
}

func protocolErrorIsTold(t *T) {
	p := t.connect("c")
	p.send(frame(0x36, str("a")))
	p.closed(malformed...)
}

func enormousPacketIsRefusedAtItsHeader(t *T) {
	p := t.connect("c")
	if p.connack.MaximumPacketSize == 0 && !t.ours {
		t.refused("a maximum packet size")
	}
	p.send([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}) // 256 MB follow, which never come
	p.closed(packet.PacketTooLarge)
	big := t.connect("d")
	b := frame(0x30, str(t.topic("a"))+t.props("")+strings.Repeat("x", int(big.connack.MaximumPacketSize)))
	big.Write(b)
	big.closed(packet.PacketTooLarge)
}

func retainedWillIsRefused(t *T) {
	t.with("limits.retain=false")
	if !t.connect("look").connack.RetainUnavailable {
		t.refused("a server without retained messages")
	}
	q := t.try("c", will(packet.Will{Topic: []byte(t.topic("w")), Retain: true}))
	if q.connack.Code != packet.RetainNotSupported {
		t.failf("CONNACK says %s", q.connack.Code)
	}
	q.closed()
}

func clientsAreSentOn(t *T) {
	const to = "b.example:1884 c.example"
	t.broker("listeners.0.redirect.to="+to, "listeners.0.redirect.permanent=true")
	p := t.try("c")
	if p.connack.Code != packet.ServerMoved || string(p.connack.ServerReference) != to {
		t.failf("CONNACK says %s and names %q", p.connack.Code, p.connack.ServerReference)
	}
	p.closed()
	t.own.Kill()
	os.RemoveAll(t.dir)
	t.broker("listeners.0.redirect.to="+to, "listeners.0.redirect.at_stop=true")
	p = t.connect("c")
	t.must(t.own.Stop(t.ctx))
	body := p.expect(packet.DISCONNECT)
	d, err := packet.ParseDisconnect(body, t.v)
	t.must(err)
	if d.Code != packet.UseAnotherServer || string(d.ServerReference) != to {
		t.failf("DISCONNECT says %s and names %q", d.Code, d.ServerReference)
	}
	p.closed()
}
