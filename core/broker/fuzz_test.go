package broker

import (
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"dunlin/core/packet"
)

// fate is what must become of a connection that sends certain bytes, as the parsers alone tell.
type fate struct {
	version packet.Version // 0 = no CONNECT
	lasting bool           // it may leave a session behind
	closes  bool           // by the broker, whatever comes next
	partial bool           // the last packet is not whole
	answers map[packet.Type]int
}

// foretell walks the bytes behind a CONNECT in version v, or from the first on if v is 0.
func foretell(b []byte, v packet.Version) fate {
	f := fate{version: v, answers: map[packet.Type]int{}}
	for len(b) > 0 && !f.closes {
		header := packet.ParseHeader
		switch f.version {
		case packet.V31:
			header = packet.ParseHeader31
		case packet.V5:
			header = packet.ParseHeader5
		}
		h, n, err := header(b)
		switch {
		case err != nil:
			f.closes = true
			continue
		case n == 0 || len(b) < n+h.Remaining:
			// It may be refused at its first bytes, and need not be.
			f.partial = true
			return f
		case f.version == 0 && h.Type != packet.CONNECT:
			f.closes = true
			continue
		}
		f.take(h, b[n:n+h.Remaining])
		b = b[n+h.Remaining:]
	}
	return f
}

func (f *fate) take(h packet.Header, body []byte) {
	var err error
	switch h.Type {
	case packet.CONNECT:
		var c packet.Connect
		if c, err = packet.ParseConnect(body); f.version != 0 || err != nil {
			f.closes = true
			return
		}
		f.version = c.Version
		f.lasting = c.SessionExpiry > 0 || c.Version < packet.V5 && !c.CleanStart
	case packet.PUBLISH:
		var p packet.Publish
		if p, err = packet.ParsePublish(body, h.Flags, f.version); p.QoS == 1 {
			f.answers[packet.PUBACK]++
		}
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		_, err = packet.ParseAck(h.Type, body, f.version)
	case packet.SUBSCRIBE:
		_, err = packet.ParseSubscribe(body, f.version)
		f.answers[packet.SUBACK]++
	case packet.UNSUBSCRIBE:
		_, err = packet.ParseUnsubscribe(body, f.version)
		f.answers[packet.UNSUBACK]++
	case packet.PINGREQ:
		f.closes = len(body) > 0
		f.answers[packet.PINGRESP]++
	default: // DISCONNECT, AUTH without a method, and what only a server sends
		f.closes = true
	}
	f.closes = f.closes || err != nil
}

// heard parses a packet of the broker as strictly as a client would.
func heard(h packet.Header, body []byte, v packet.Version) (err error) {
	switch h.Type {
	case packet.CONNACK:
		_, err = packet.ParseConnack(body, v)
	case packet.PUBLISH:
		_, err = packet.ParsePublish(body, h.Flags, v)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		_, err = packet.ParseAck(h.Type, body, v)
	case packet.SUBACK:
		_, err = packet.ParseSuback(body, v)
	case packet.UNSUBACK:
		_, err = packet.ParseUnsuback(body, v)
	case packet.DISCONNECT:
		_, err = packet.ParseDisconnect(body, v)
	}
	return err
}

// FuzzConnection sends any bytes in any pieces: instead of a CONNECT or behind one. Whatever is
// malformed closes the connection [MQTT-4.13.1-1]; what is not is answered, or closed with a
// reason; what the broker says is well-formed; and nothing stays but the session that was asked for.
func FuzzConnection(f *testing.F) {
	for _, v := range versions {
		str := func(s string) string { return string([]byte{0, byte(len(s))}) + s }
		sub := packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a/#", Options: packet.SubscribeOptions{QoS: 2}}}, v)
		var flow []byte
		for q := range packet.QoS(3) {
			flow, _ = packet.AppendPublish(flow, &packet.Publish{Topic: []byte("a/b"), Payload: []byte("x"), QoS: q, ID: packet.ID(q), Retain: q == 1}, v)
		}
		for _, topic := range []string{"$delayed/0/a/b", "$delayed/1/a", "$delayed/2/a", "$delayed/x/a", "$delayed/1"} {
			flow, _ = packet.AppendPublish(flow, &packet.Publish{Topic: []byte(topic), QoS: 1, ID: 7}, v)
		}
		flow = packet.AppendAck(flow, &packet.Ack{Type: packet.PUBREL, ID: 2}, v)
		ends := packet.AppendDisconnect(packet.AppendUnsubscribe(nil, 9, []string{"a/#"}, v), &packet.Disconnect{}, v)
		connect := packet.AppendConnect(nil, &packet.Connect{
			Version: v, ClientID: []byte("z"), KeepAlive: 9, RequestProblem: true, SessionExpiry: 9, MaximumPacketSize: 90, TopicAliasMaximum: 3,
			HasWill: true, Will: packet.Will{Topic: []byte("a/w"), Payload: []byte("w"), QoS: 1, Retain: true},
		})
		f.Add(byte(v), slices.Concat(sub, flow, ends), []byte{1, 5, 2})
		f.Add(byte(v), slices.Concat(flow, sub, packet.AppendPingreq(nil), flow), []byte{})
		f.Add(byte(v), []byte("\x32\x06"+str("a/b")+"\x00\x00"), []byte{3})
		f.Add(byte(v), slices.Concat(sub, connect), []byte{9, 9})
		f.Add(byte(0), slices.Concat(connect, sub, flow), []byte{2, 1, 1})
		f.Add(byte(0), slices.Concat(connect, ends), []byte{40})
	}
	f.Add(byte(5), []byte("\x30\x07\x00\x01a\x03\x23\x00\x01\x30\x06\x00\x00\x03\x23\x00\x01"), []byte{4})
	f.Add(byte(5), []byte("\x82\x0f\x00\x01\x00\x00\x09$share/g/\x00"), []byte{})
	f.Add(byte(5), []byte("\xC0\x80\x00"), []byte{1}) // PINGREQ with a padded Remaining Length [MQTT-1.5.5-1]
	for _, broken := range []string{
		"\x82\x06\x00\x01\x00\x00\x01a", // SUBSCRIBE without its options
		"\xA2\x03\x00\x01\x00",          // UNSUBSCRIBE without a filter
		"\x36\x06\x00\x01a\x00\x01\x00", // PUBLISH at QoS 3
		"\x30\x04\x00\x01#\x00",         // to a wildcard
		"\x62\x01\x00",                  // PUBREL with half a packet id
		"\xC0\x01\x00",                  // PINGREQ with a body
		"\x20\x03\x00\x00\x00",          // CONNACK
	} {
		f.Add(byte(5), []byte(broken), []byte{})
	}
	f.Add(byte(5), []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, []byte{1, 1, 1})
	f.Add(byte(0), []byte("GET / HTTP/1.1\r\n\r\n"), []byte{7})
	f.Add(byte(0), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, v byte, b, pieces []byte) {
		b = b[:min(len(b), 32<<10)] // longer input tells no more
		version := packet.Version(v)
		if !slices.Contains(versions, version) {
			version = 0
		}
		throw(t, version, b, pieces)
	})
}

// thrown counts the brokers of this process: each has a name of its own.
var thrown atomic.Uint64

func throw(t *testing.T, v packet.Version, b, pieces []byte) {
	// Thousands of TCP connections a second use up the ports of the machine.
	x := startOn(t, "unix", fmt.Sprintf("@dunlin-fuzz-%d-%d", os.Getpid(), thrown.Add(1)), func(o *Options) { o.Limits.MaxDelay = time.Second }) // so that it never waits for room
	canary, _ := x.connect(packet.V5, "canary")
	var w *wire
	if v == 0 {
		w = x.dial(0)
	} else {
		w, _ = x.connect(v, "c")
	}
	f := foretell(b, v)
	w.v = f.version
	whole := b
	for _, n := range pieces {
		n := min(int(n), len(b))
		w.net.Write(b[:n]) // the broker may have closed: that is its answer
		b = b[n:]
	}
	w.net.Write(b)
	if !f.closes && !f.partial {
		w.net.Write(packet.AppendPingreq(nil))
		f.answers[packet.PINGRESP]++
		f.closes = f.version == 0
	}
	if f.partial {
		w.net.(*net.UnixConn).CloseWrite()
	}
	var last packet.Header
	open := func() bool { // something is not answered yet
		for _, n := range f.answers {
			if n > 0 {
				return true
			}
		}
		return false
	}
	for f.closes || f.partial || open() {
		h, body, err := w.next()
		if err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Fatalf("%x in %v: neither answered nor closed; awaited %v", whole, pieces, f.answers)
			}
			if f.version == packet.V5 && !f.closes && !f.partial && last.Type != packet.DISCONNECT && last.Type != packet.CONNACK {
				t.Fatalf("%x in %v: closed behind %s, without a reason", whole, pieces, last.Type)
			}
			break
		}
		last = h
		f.answers[h.Type]--
		if f.version != 0 {
			if err := heard(h, body, f.version); err != nil {
				t.Fatalf("%x in %v: the broker says %s %x: %v", whole, pieces, h.Type, body, err)
			}
		}
	}
	w.net.Close()
	canary.t = t
	for { // wills and messages may come, the PINGRESP must
		canary.write(packet.AppendPingreq(nil))
		h, _ := canary.read()
		if h.Type == packet.PINGRESP {
			break
		}
	}
	x.until("the connection ends", func() bool { return x.b.counters.Connections == 1 })
	x.do(func() {
		if n := len(x.b.members); n > 1 && !f.lasting {
			t.Errorf("%x in %v: %d sessions stay, with the canary's", whole, pieces, n)
		}
	})
	x.until("the store has answered everything", func() bool { return len(x.b.ops.free) == len(x.b.ops.places) })
	x.do(func() { // and nothing of the connection is kept
		b := x.b
		if b.undecided != 0 || len(b.waiting)+len(b.endings)+len(b.throttled)+len(b.full)+len(b.greeters)+len(b.wills) != 0 {
			t.Errorf("%x in %v: %d bytes wait for the disk, %d publishes, %d ends of sessions; %d clients rest, %d await output, %d greetings, %d wills", whole, pieces,
				b.undecided, len(b.waiting), len(b.endings), len(b.throttled), len(b.full), len(b.greeters), len(b.wills))
		}
		if n := b.retained.Len(); n > len(whole)/4 { // a PUBLISH has more bytes
			t.Errorf("%x in %v: %d messages are retained", whole, pieces, n)
		}
	})
}
