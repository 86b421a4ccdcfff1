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
						conns[i].SendAcks(&a, packet.PUBREL, 7, k)
						want[i] = packet.AppendAckRun(want[i], packet.PUBREL, 7, k)
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
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("connection %d: %d bytes came, %d were sent, or their order differs", i, len(got[i]), len(want[i]))
				}
			}
		})
	}
}
