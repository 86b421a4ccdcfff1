package broker

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

// presence publishes who comes and goes, while somebody subscribes to it:
//
//	$SYS/broker/presence/CLIENTID/connected
//	$SYS/broker/presence/CLIENTID/disconnected
//
// The events are of QoS 0 and not retained: who wants to know who is there subscribes first and
// asks then. They are published at the end of the turn, in the order in which things happened,
// because a connection may end in the middle of a publish. Like all that is below $SYS they are
// never stored, queued or handed to an uplink.
type presence struct {
	b       *Broker
	filters int // subscribed Topic Filters that an event can match
	events  []*message.Message
}

const presenceRoot = sysBroker + "presence/"

// presenceEvent is the payload of an event, as JSON.
type presenceEvent struct {
	ClientID string  `json:"client_id"`
	User     *string `json:"user"`    // null = anonymous
	Remote   string  `json:"remote"`  // "192.0.2.7:50312", "unix", or "gone" if it went before it was asked for
	Version  string  `json:"version"` // "3.1", "3.1.1" or "5.0"
	Reason   *string `json:"reason"`  // of the end; null in connected
	At       *string `json:"at"`      // RFC 3339, UTC; null while the gateway does not know the time
}

// observe learns from the index which filters are subscribed. The addresses of those who are
// connected are asked for when the first is: when a connection has ended it may be too late.
func (p *presence) observe(filter string, added bool) {
	switch {
	case !matchesPresence(filter):
	case !added:
		p.filters--
	default:
		p.filters++
		if p.filters == 1 {
			for _, m := range p.b.members {
				if m.online() {
					m.client.peer()
				}
			}
		}
	}
}

// matchesPresence says whether a Topic Filter can match an event.
func matchesPresence(filter string) bool {
	id := "x"
	if levels := strings.Split(filter, "/"); len(levels) > 3 && levels[3] != "+" && levels[3] != "#" {
		id = levels[3]
	}
	for _, event := range []string{"connected", "disconnected"} {
		if topic.Matches(filter, presenceRoot+id+"/"+event) {
			return true
		}
	}
	return false
}

// connected tells that a client was let in.
func (p *presence) connected(c *client) {
	if p.filters > 0 {
		p.add(c, "connected", nil)
	}
}

// disconnected tells that the connection of a client that was let in has ended.
func (p *presence) disconnected(c *client) {
	if p.filters > 0 {
		p.add(c, "disconnected", new(c.ending.String()))
	}
}

func (p *presence) add(c *client, event string, reason *string) {
	peer, now := c.peer(), p.b.now()
	e := presenceEvent{ClientID: peer.ClientID, Remote: peer.Remote, Version: versionName(peer.Version), Reason: reason}
	if !peer.Identity.Anonymous {
		e.User = &peer.Identity.User
	}
	if now.Wall != 0 {
		e.At = new(time.UnixMilli(now.Wall).UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	payload, err := json.Marshal(&e)
	if err != nil {
		panic("broker: internal error: presence: " + err.Error()) // strings always are JSON
	}
	p.events = append(p.events, &message.Message{
		Topic:    presenceRoot + topicLevel(peer.ClientID) + "/" + event,
		Payload:  payload,
		Received: now,
	})
}

// publish publishes the events of the turn, and those of who ends by them.
func (p *presence) publish() {
	for len(p.events) > 0 {
		events := p.events
		p.events = nil
		for _, m := range events {
			p.b.publishOwn(m)
		}
	}
}

// versionName is the protocol version as the specifications call it.
func versionName(v packet.Version) string {
	switch v {
	case packet.V31:
		return "3.1"
	case packet.V311:
		return "3.1.1"
	case packet.V5:
		return "5.0"
	}
	return fmt.Sprint(int(v))
}

// topicLevel makes text one level of a Topic Name: "+", "#", "/" and the "%" itself are written
// as in a URL, "%2F" for a slash, so that each text has a level of its own.
func topicLevel(text string) string {
	if !strings.ContainsAny(text, "+#/%") {
		return text
	}
	return escapes.Replace(text)
}

var escapes = strings.NewReplacer("%", "%25", "+", "%2B", "#", "%23", "/", "%2F")
