package restart

import (
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

func willOf(name string, delay uint32) *packet.Will {
	return &packet.Will{Topic: []byte("will/" + name), Payload: []byte(name), QoS: 1, Retain: true, Delay: delay}
}

// watcher is a session that is away and wants wills.
func (g *gateway) watcher() *client.Client {
	g.Helper()
	c, _ := g.connect(lasting("watcher"))
	g.subscribe(c, "will/#")
	g.leave(c)
	return c
}

// wills returns which wills have come, sorted, and sees that the same are retained.
func (g *gateway) wills(watcher *client.Client) []string {
	g.Helper()
	g.resume(watcher)
	all := slices.Sorted(slices.Values(g.got(watcher)))
	g.leave(watcher)
	late, _ := g.connect(client.Options{ClientID: "late"})
	g.subscribe(late, "will/#")
	if kept := slices.Sorted(slices.Values(g.got(late))); !slices.Equal(kept, all) {
		g.Errorf("%q are retained, %q have come", kept, all)
	}
	g.leave(late)
	return all
}

// Row 18: wills. [MQTT-3.1.2-7], [MQTT-3.1.2-8], [MQTT-3.1.2-9], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
func TestWillsAreOwedOverARestart(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		watcher := g.watcher()
		enter := func(id string, o client.Options) *client.Client {
			o.ClientID, o.Will = id, willOf(id, 0)
			c, _ := g.connect(o)
			return c
		}
		// Published before.
		enter("cut", client.Options{}).Close()
		if err := enter("0x04", lasting("")).DisconnectWith(g.Context(), packet.Disconnect{Code: packet.DisconnectWithWill}); err != nil {
			g.Fatal(err)
		}
		enter("taken over", client.Options{})
		c, _ := g.connect(client.Options{ClientID: "taken over"})
		g.leave(c)
		// Never published.
		g.leave(enter("said goodbye", client.Options{}))
		g.leave(enter("said goodbye, lasting", lasting("")))
		// There when the broker ends.
		enter("transient", client.Options{})
		enter("transient 3.1.1", client.Options{Version: packet.V311, CleanStart: true})
		enter("lasting", lasting(""))
		enter("back", client.Options{})
		enter("back, lasting", lasting(""))
		g.pass("2") // wills are on disk within a second
		g.restart()
		g.connect(client.Options{ClientID: "back", CleanStart: true})
		g.connect(lasting("back, lasting"))
		g.pass("7")
		want := []string{"0x04", "back", "back, lasting", "cut", "lasting", "taken over", "transient", "transient 3.1.1"}
		if g.killed { // a stop publishes them, a kill could not
			want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "back") })
		}
		if got := g.wills(watcher); !slices.Equal(got, want) {
			g.Errorf("got the wills of %q, want %q", got, want)
		}
		g.restart()
		g.pass("7")
		if got := g.again(watcher); got != nil {
			g.Errorf("got the wills of %q once more", got)
		}
	})
}

// again returns what else has come.
func (g *gateway) again(watcher *client.Client) []string {
	g.Helper()
	g.resume(watcher)
	return g.got(watcher)
}

// A retained "online" must not stay for ever.
func TestARetainedStateFollowsItsClientOverARestart(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		state := func() string {
			g.Helper()
			c, _ := g.connect(client.Options{ClientID: "reader"})
			defer g.leave(c)
			g.subscribe(c, "state")
			return string(g.receive(c).Payload)
		}
		device, _ := g.connect(client.Options{ClientID: "device", Version: packet.V311, CleanStart: true, Will: &packet.Will{
			Topic: []byte("state"), Payload: []byte("offline"), QoS: 0, Retain: true,
		}})
		if err := device.Publish(g.Context(), client.Publish{Topic: "state", Payload: []byte("online"), QoS: 1, Retain: true}); err != nil {
			g.Fatal(err)
		}
		if err := device.Drain(g.Context()); err != nil {
			g.Fatal(err)
		}
		g.pass("1")
		g.restart()
		if got := state(); g.killed && got != "online" {
			g.Errorf("at once it is %s", got)
		}
		g.pass("7")
		if got := state(); got != "offline" {
			g.Errorf("the device is gone, and its state is %s", got)
		}
		g.publish(client.Publish{Topic: "x", QoS: 1, Retain: true}) // so that what was retained at QoS 0 is on disk
		g.restart()
		if got := state(); got != "offline" {
			g.Errorf("after another restart its state is %s", got)
		}
	})
}

// Row 19: the Will Delay Interval. [MQTT-3.1.3-9], MQTT5 §3.1.3.2.2
func TestWillDelaysGoOnOverARestart(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		watcher := g.watcher()
		for _, x := range []struct {
			name   string
			delay  uint32
			expiry uint32
			there  bool // when the broker ends
		}{
			{"due, away", 4, 3600, false},
			{"due, there", 4, 3600, true},
			{"not due, away", 1000, 3600, false},
			{"not due, there", 1000, 3600, true},
			{"ends before, away", 1000, 4, false},
			{"ends before, there", 1000, 4, true},
			{"back, away", 12, 3600, false},
			{"back, there", 12, 3600, true},
			{"ends with its connection", 1000, 0, true},
		} {
			c, _ := g.connect(client.Options{ClientID: x.name, SessionExpiry: x.expiry, Will: willOf(x.name, x.delay)})
			if !x.there {
				c.Close()
			}
		}
		g.pass("1")
		g.restart()
		g.connect(lasting("back, away")) // in time: [MQTT-3.1.3-9]
		g.connect(lasting("back, there"))
		g.pass("13")
		want := []string{"due, away", "due, there", "ends before, away", "ends before, there", "ends with its connection"}
		if got := g.wills(watcher); !slices.Equal(got, want) {
			g.Errorf("got the wills of %q, want %q", got, want)
		}
	})
}
