package conn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

// looseFrom is the first identifier of PUBRELs that may leave before PUBLISH packets.
const looseFrom = 60001

// apart returns the PUBRELs that may leave before others, and what may not, both in order.
func apart(t *testing.T, all []byte) (fixed, loose []byte) {
	t.Helper()
	for b := all; len(b) > 0; {
		h, n, err := packet.ParseHeader(b)
		if err != nil || n == 0 || len(b) < n+h.Remaining {
			t.Fatalf("%d bytes are no packet: %v", len(b), err)
		}
		n += h.Remaining
		if h.Type == packet.PUBREL && binary.BigEndian.Uint16(b[2:]) >= looseFrom {
			loose = append(loose, b[:n]...)
		} else {
			fixed = append(fixed, b[:n]...)
		}
		b = b[n:]
	}
	return fixed, loose
}

func TestReleasesLeaveWithMessagesInOneWrite(t *testing.T) {
	c, peer, poller := pair(t)
	var a Arena
	publish := func(id packet.ID) {
		p := packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: 2, ID: 1}
		c.Send(&a, a.Publish(&p, packet.V311), id)
	}
	c.SendReleases(&a, 1, 3)
	publish(10)
	c.SendReleases(&a, 4, 2)
	publish(11)
	publish(12)
	c.SendReleases(&a, 6, 1)
	if c.out != nil {
		t.Error("what leaves was copied")
	}
	a.Flush(poller)
	got := make([]byte, 1000)
	n, err := unix.Read(peer, got)
	if err != nil {
		t.Fatal(err)
	}
	first, id, k := packet.AckRun(got)
	if first != packet.PUBREL || id != 1 || k != 6 || n != 6*4+3*(2+2+1+2+1) {
		t.Errorf("%d of %v from %d on, %d bytes; want 6 of PUBREL and three messages", k, first, id, n)
	}
	if a.Packets != 9 {
		t.Errorf("%d packets are counted, want 9", a.Packets)
	}
}

// TestPacketsLeaveInTheOrderInWhichTheyWereSent compares what peers get with what was sent to them:
// packets of their own and shared ones, at any QoS, with peers that read now and then.
func TestPacketsLeaveInTheOrderInWhichTheyWereSent(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(7, seed))
			var a Arena
			if seed%2 == 1 {
				a.Join(crew(t, 2))
			}
			const n = 20
			var conns [n]*Conn
			var peers [n]int
			var want, got [n][]byte
			_, _, poller := pair(t)
			for i := range n {
				conns[i], peers[i], _ = pair(t)
				if err := poller.Add(conns[i].Fd(), conns[i].Key); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, 64<<10)
			read := func(i int) {
				if k, err := unix.Read(peers[i], buf[:1+dice.IntN(len(buf))]); err == nil {
					got[i] = append(got[i], buf[:k]...)
				}
			}
			size := 1 << (4 + dice.IntN(10))
			for range 40 { // turns
				for range 1 + dice.IntN(30) {
					qos := packet.QoS(dice.IntN(3))
					p := packet.Publish{Topic: []byte("t"), Payload: bytes.Repeat([]byte("z"), dice.IntN(size)), QoS: qos, ID: 1}
					var s Segment
					var raw []byte
					at := 0
					if dice.IntN(6) == 0 {
						i, k := dice.IntN(n), 1+dice.IntN(200)
						conns[i].SendReleases(&a, looseFrom, k)
						want[i] = packet.AppendAckRun(want[i], packet.PUBREL, looseFrom, k)
						continue
					}
					ack := dice.IntN(3) == 0
					if ack {
						k := packet.Ack{Type: packet.PUBREL, ID: packet.ID(1 + dice.IntN(60000))}
						s, raw = a.Ack(&k, packet.V311), packet.AppendAck(nil, &k, packet.V311)
					} else {
						s = a.Publish(&p, packet.V311)
						raw, at = packet.AppendPublish(nil, &p, packet.V311)
					}
					everybody := !ack && dice.IntN(2) == 0
					first := dice.IntN(n)
					for i := range n {
						if !everybody && i != first {
							continue
						}
						id := packet.ID(1 + len(want[i])) // often, but not always, the next
						conns[i].Send(&a, s, id)
						mine := bytes.Clone(raw)
						if at > 0 {
							binary.BigEndian.PutUint16(mine[at:], uint16(id))
						}
						want[i] = append(want[i], mine...)
					}
				}
				a.Flush(poller)
				for i := range n {
					if dice.IntN(3) == 0 {
						read(i)
					}
					if dice.IntN(3) == 0 {
						conns[i].Writable(&a)
					}
				}
			}
			for i := range n {
				got[i] = append(got[i], output(t, conns[i], peers[i], &a)...)
				fixed, loose := apart(t, got[i])
				wantFixed, wantLoose := apart(t, want[i])
				if !bytes.Equal(fixed, wantFixed) || !bytes.Equal(loose, wantLoose) {
					t.Fatalf("connection %d: %d bytes came, %d were sent, or their order differs", i, len(got[i]), len(want[i]))
				}
			}
		})
	}
}
