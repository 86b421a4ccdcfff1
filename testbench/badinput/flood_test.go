package badinput

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

// TestAnswersThatNobodyReadsAreBounded has clients ask for answers without end and read none of
// them: the broker stops reading from them, and nobody else notices.
func TestAnswersThatNobodyReadsAreBounded(t *testing.T) {
	broker := start(t)
	canary := newCanary(t, broker.Spec.Address)
	canary.sing(t)
	var many []packet.Subscription
	var names []string
	for i := range 1000 {
		many = append(many, packet.Subscription{Filter: fmt.Sprint("no+", i)})
		names = append(names, fmt.Sprint(i))
	}
	for _, flood := range []struct {
		name string
		ask  []byte
	}{
		{"PINGREQ", frame(0xC0, "")},
		{"PUBREC for nothing", frame(0x50, "\x00\x07")},
		{"PUBREL for nothing", frame(0x62, "\x00\x07")},
		{"SUBSCRIBE to 1,000 filters that are none", packet.AppendSubscribe(nil, 1, 0, many, packet.V5)},
		{"UNSUBSCRIBE from 1,000 filters", packet.AppendUnsubscribe(nil, 1, names, packet.V5)},
		{"PUBLISH to what nobody may publish to", publish5(0x32, "$SYS/x", 1)},
		{"QoS 2 that begins and ends", slices.Concat(publish5(0x34, "a", 1), frame(0x62, "\x00\x01"))},
	} {
		t.Run(flood.name, func(t *testing.T) {
			m := remember(t, broker)
			m.holds(t, 2, 32<<20, func() {
				raw := enter(t, broker, packet.Connect{ClientID: []byte("asks"), CleanStart: true})
				expect(t, raw, packet.CONNACK)
				piece := bytes.Repeat(flood.ask, 1+(64<<10)/len(flood.ask))
				// The broker must not take it all; how long it is given does not matter.
				raw.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				for sent := 0; sent < 64<<20; sent += len(piece) {
					_, err := raw.Write(piece)
					if fault, ok := err.(net.Error); ok && fault.Timeout() {
						break
					} else if err != nil {
						t.Fatal(err)
					}
					m.below(t, 32<<20)
				}
				canary.sing(t)
				raw.Close()
				canary.sing(t)
			})
		})
	}
}

// TestManyOfOneKindAreTakenOrRefused sends as many as there is room for in a packet.
func TestManyOfOneKindAreTakenOrRefused(t *testing.T) {
	broker := start(t)
	canary := newCanary(t, broker.Spec.Address)
	in := client.New(client.Options{Address: broker.Spec.Address, ClientID: "in", Guard: guard})
	if _, err := in.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	if _, err := in.Subscribe(t.Context(), client.Filter{Filter: "many", QoS: 1}); err != nil {
		t.Fatal(err)
	}

	t.Run("user properties of a message", func(t *testing.T) { // [MQTT-3.3.2-17], [MQTT-3.3.2-18]
		var block []byte
		const n = 40_000
		for i := range n {
			block = packet.AppendUserProperty(block, string(rune('a'+i%26)), "")
		}
		out := enter(t, broker, packet.Connect{ClientID: []byte("out"), CleanStart: true})
		expect(t, out, packet.CONNACK)
		b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("many"), QoS: 1, Properties: block}, packet.V5)
		b[at+1] = 1
		if len(b) > maxPacket {
			t.Fatalf("a packet of %d bytes is too large for the broker anyhow", len(b))
		}
		if _, err := out.Write(b); err != nil {
			t.Fatal(err)
		}
		expect(t, out, packet.PUBACK)
		m, err := in.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Properties, block) {
			t.Errorf("%d user properties came back changed", n)
		}
		canary.sing(t)
	})
	t.Run("user properties of a connection", func(t *testing.T) {
		var block []byte
		for range 12_000 {
			block = packet.AppendUserProperty(block, "", "")
		}
		raw := enter(t, broker, packet.Connect{ClientID: []byte("c"), CleanStart: true, UserProperties: block})
		if body := expect(t, raw, packet.CONNACK); body[1] != 0 {
			t.Errorf("got 0x%02X", body[1])
		}
		canary.sing(t)
	})
	t.Run("filters of a SUBSCRIBE", func(t *testing.T) { // limits.max_subscriptions is 1000
		raw := enter(t, broker, packet.Connect{ClientID: []byte("f"), CleanStart: true})
		expect(t, raw, packet.CONNACK)
		var subs []packet.Subscription
		for i := range 20_000 {
			subs = append(subs, packet.Subscription{Filter: fmt.Sprint("f", i)})
		}
		if _, err := raw.Write(packet.AppendSubscribe(nil, 1, 0, subs, packet.V5)); err != nil {
			t.Fatal(err)
		}
		a, err := packet.ParseSuback(expect(t, raw, packet.SUBACK), packet.V5)
		if err != nil || len(a.Codes) != len(subs) { // [MQTT-3.9.3-1]
			t.Fatalf("%d codes, %v", len(a.Codes), err)
		}
		for i, code := range a.Codes {
			want := packet.Success
			if i >= 1000 {
				want = packet.QuotaExceeded
			}
			if code != want {
				t.Fatalf("filter %d: got %v, want %v", i, code, want)
			}
		}
		canary.sing(t)
	})
	t.Run("subscriptions to everything with wildcards", func(t *testing.T) {
		raw := enter(t, broker, packet.Connect{ClientID: []byte("w"), CleanStart: true})
		expect(t, raw, packet.CONNACK)
		// All 512 ways to write nine levels with "+" or "a": each matches, and a message comes once.
		var subs []packet.Subscription
		for i := range 512 {
			var filter strings.Builder
			for level := range 9 {
				filter.WriteString([]string{"/a", "/+"}[i>>level&1])
			}
			subs = append(subs, packet.Subscription{Filter: filter.String()})
		}
		if _, err := raw.Write(packet.AppendSubscribe(nil, 1, 9, subs, packet.V5)); err != nil {
			t.Fatal(err)
		}
		expect(t, raw, packet.SUBACK)
		if _, err := raw.Write(frame(0x30, str("/a/a/a/a/a/a/a/a/a")+"\x00hi")); err != nil {
			t.Fatal(err)
		}
		p, err := packet.ParsePublish(expect(t, raw, packet.PUBLISH), 0, packet.V5)
		if err != nil || string(p.Payload) != "hi" {
			t.Errorf("got %q, %v", p.Payload, err)
		}
		canary.sing(t)
	})
}

// TestWillsAreBounded has many clients bring wills as large as they can be, which are in memory.
func TestWillsAreBounded(t *testing.T) {
	broker := start(t)
	canary := newCanary(t, broker.Spec.Address)
	canary.sing(t)
	m := remember(t, broker)
	refused := 0
	for i := range 2000 {
		raw := enter(t, broker, packet.Connect{
			ClientID: fmt.Append(nil, "w", i), CleanStart: true,
			HasWill: true, Will: packet.Will{Topic: []byte("w"), Payload: make([]byte, 60_000)},
		})
		switch code := packet.ReasonCode(expect(t, raw, packet.CONNACK)[1]); code {
		case packet.Success:
		case packet.QuotaExceeded:
			refused++
		default:
			t.Fatalf("got %v", code)
		}
	}
	if refused == 0 {
		t.Error("none was refused")
	}
	canary.sing(t)
	m.below(t, 64<<20)
}
