package restart

import (
	"slices"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

// Row 8: Clean Start and Session Present. [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.2.2-2],
// [MQTT-3.2.2-3], [MQTT-3.2.2-6]
func TestSessionPresentIsExactAfterARestart(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]packet.Version{"5.0": packet.V5, "3.1.1": packet.V311} {
		t.Run(name, func(t *testing.T) {
			over(t, func(g *gateway) {
				as := func(id string, clean bool) client.Options {
					o := client.Options{ClientID: id, Version: v, CleanStart: clean}
					if v == packet.V5 {
						o.SessionExpiry = 3600
					}
					return o
				}
				for _, id := range []string{"kept", "cleaned"} {
					c, a := g.connect(as(id, false))
					if a.SessionPresent {
						g.Errorf("%s: a session that was never there is present", id)
					}
					g.subscribe(c, "a/"+id)
				}
				g.restart()
				if !g.present(as("kept", false)) {
					g.Error("the session is not present")
				}
				if g.present(as("new", false)) || g.present(as("newer", true)) {
					g.Error("a session that was never there is present")
				}
				if g.present(as("cleaned", true)) {
					g.Error("a session is present though its client starts clean")
				}
				g.restart()
				g.publish(client.Publish{Topic: "a/kept", QoS: 1}, client.Publish{Topic: "a/cleaned", QoS: 1})
				for id, want := range map[string][]string{"kept": {"a/kept"}, "cleaned": nil} {
					c, a := g.connect(as(id, false))
					if present := want != nil || v == packet.V5; a.SessionPresent != present {
						g.Errorf("%s: session present %v, want %v", id, a.SessionPresent, present)
					}
					if got := g.got(c); !slices.Equal(got, want) {
						g.Errorf("%s got %q, want %q", id, got, want)
					}
				}
			})
		})
	}
}

// Row 9: the Session Expiry Interval. [MQTT-3.1.2-23], [MQTT-4.1.0-1], [MQTT-4.1.0-2], [MQTT-3.14.2-2]
func TestSessionExpiryHoldsOverARestart(t *testing.T) {
	t.Parallel()
	const ever = 0xFFFFFFFF
	over(t, func(g *gateway) {
		enter := func(id string, expiry uint32) *client.Client {
			c, a := g.connect(client.Options{ClientID: id, SessionExpiry: expiry})
			if capped := expiry == ever; a.HasSessionExpiry != capped || capped && a.SessionExpiry != 30*24*3600 {
				g.Errorf("%s: CONNACK says %d s, %v", id, a.SessionExpiry, a.HasSessionExpiry)
			}
			return c
		}
		enter("none", 0)
		enter("brief", 1)
		enter("hour", 3600)
		enter("ever", ever)
		old, _ := g.connect(client.Options{ClientID: "old", Version: packet.V311})
		g.leave(old)
		for id, expiry := range map[string]uint32{"shortened": 1, "ended": 0, "prolonged": 7200} {
			c := enter(id, 2)
			if err := c.DisconnectWith(g.Context(), packet.Disconnect{HasSessionExpiry: true, SessionExpiry: expiry}); err != nil {
				g.Fatal(err)
			}
		}
		g.pass("1") // nobody waits for a DISCONNECT: what it says is on disk within a second
		g.restart()
		if g.present(client.Options{ClientID: "none", SessionExpiry: 1}) || g.present(client.Options{ClientID: "ended", SessionExpiry: 1}) {
			g.Error("a session is present that ended with its connection")
		}
		g.pass("3")
		for id, want := range map[string]bool{"brief": false, "shortened": false, "prolonged": true, "hour": true, "ever": true} {
			if got := g.present(client.Options{ClientID: id, SessionExpiry: 1}); got != want {
				g.Errorf("%s: session present %v, want %v", id, got, want)
			}
		}
		if !g.present(client.Options{ClientID: "old", Version: packet.V311}) {
			g.Error("a session of MQTT 3.1.1 has ended")
		}
	})
}

// Row 37: retained messages. [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8]
func TestRetainedMessagesOutliveARestart(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		var all []client.Publish
		retained := func(topic, payload string, qos packet.QoS) {
			all = append(all, client.Publish{Topic: topic, Payload: []byte(payload), QoS: qos, Retain: true})
		}
		for qos, name := range []string{"zero", "one", "two"} {
			retained("r/kept/"+name, "kept "+name, packet.QoS(qos))
			retained("r/replaced/"+name, "old", packet.QoS(qos))
			retained("r/replaced/"+name, "replaced "+name, packet.QoS(qos))
			retained("r/deleted/"+name, "deleted", packet.QoS(qos))
			retained("r/deleted/"+name, "", packet.QoS(qos))
			retained("r/empty/"+name, "", packet.QoS(qos))
		}
		// What comes at QoS 0 is promised to nobody; it goes with the commit of what comes then.
		retained("r/last", "last", 1)
		g.publish(all...)
		want := []string{"kept one", "kept two", "kept zero", "last", "replaced one", "replaced two", "replaced zero"}
		check := func(when string) {
			g.Helper()
			c, _ := g.connect(client.Options{ClientID: "reader"})
			g.subscribe(c, "r/#")
			if got := slices.Sorted(slices.Values(g.got(c))); !slices.Equal(got, want) {
				g.Errorf("%s: got %q, want %q", when, got, want)
			}
			g.leave(c)
		}
		g.restart()
		check("after a restart")
		g.publish(client.Publish{Topic: "r/kept/two", QoS: 1, Payload: []byte{}, Retain: true})
		want = slices.Delete(want, 1, 2)
		g.restart()
		check("after another one")
	})
}

// Row 38: Subscription Identifiers. [MQTT-3.3.4-3], [MQTT-3.3.4-4], [MQTT-3.3.4-5]
func TestSubscriptionIdentifiersAreInTheSessionOnDisk(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		c, _ := g.connect(lasting("s"))
		for id, filter := range []string{1: "a/#", 2: "a/+", 300: "a/b"} {
			if filter == "" {
				continue
			}
			if _, err := c.SubscribeAs(g.Context(), uint32(id), client.Filter{Filter: filter, QoS: 1}); err != nil {
				g.Fatal(err)
			}
		}
		g.leave(c)
		g.publish(client.Publish{Topic: "a/b", QoS: 1, Payload: []byte("before")})
		g.restart()
		g.publish(client.Publish{Topic: "a/b", QoS: 1, Payload: []byte("after")})
		if a := g.resume(c); !a.SessionPresent {
			g.Error("the session is gone")
		}
		for _, want := range []string{"before", "after"} {
			m := g.receive(c)
			ids := slices.Sorted(slices.Values(m.SubscriptionIDs))
			if string(m.Payload) != want || !slices.Equal(ids, []uint32{1, 2, 300}) {
				g.Errorf("got %q with the identifiers %v, want %q with 1, 2 and 300", m.Payload, m.SubscriptionIDs, want)
			}
		}
		if got := g.got(c); got != nil { // one copy each
			g.Errorf("got %q, too", got)
		}
	})
}

// Row 49: a message is queued for every session that matches. [MQTT-4.5.0-1]
func TestMessagesAreQueuedForSessionsThatAreNotBackYet(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		members := map[string]*client.Client{}
		for id, filter := range map[string]string{"exact": "a/b", "one": "a/+", "all": "#", "other": "c"} {
			c, _ := g.connect(lasting(id))
			g.subscribe(c, filter)
			members[id] = c
		}
		old, _ := g.connect(client.Options{ClientID: "old", Version: packet.V311})
		g.subscribe(old, "a/#")
		g.leave(members["exact"]) // the others are cut off
		members["old"] = old
		g.restart()
		g.publish(client.Publish{Topic: "a/b", QoS: 1, Payload: []byte("1")}, client.Publish{Topic: "a/b", QoS: 2, Payload: []byte("2")})
		g.restart()
		g.publish(client.Publish{Topic: "a/b", QoS: 1, Payload: []byte("3")})
		for id, c := range members {
			want := []string{"1", "2", "3"}
			if id == "other" {
				want = nil
			}
			if a := g.resume(c); !a.SessionPresent {
				g.Errorf("the session of %s is gone", id)
			}
			if got := g.got(c); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				g.Errorf("%s got %q, want %q", id, got, want)
			}
			g.leave(c)
		}
	})
}

// [MQTT-3.3.2-3] does not say so, but what the broker says about itself is about this process.
func TestNothingBelowSYSIsKept(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		c, _ := g.connect(lasting("s"))
		g.subscribe(c, "$SYS/#")
		for m := g.receive(c); m.Topic != "$SYS/broker/version"; m = g.receive(c) {
		}
		g.restart()
		g.resume(c)
		sub, _ := g.connect(client.Options{ClientID: "count"})
		g.subscribe(sub, "$SYS/broker/retained messages/count", "$SYS/broker/store/messages/count")
		for range 2 {
			if m := g.receive(sub); string(m.Payload) != "0" {
				g.Errorf("%s is %s", m.Topic, m.Payload)
			}
		}
	})
}
