package conn

import (
	"testing"

	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

// counter is a handler that only counts.
type counter struct{ packets, acks int }

func (h *counter) MaxPacket(*Conn) int { return 1 << 20 }

func (h *counter) Packet(*Conn, packet.Header, []byte) error { h.packets++; return nil }

func (h *counter) Acks(_ *Conn, _ packet.Type, _ packet.ID, n int) error { h.acks += n; return nil }

func BenchmarkTakeInOneRead(b *testing.B) {
	publishes := []byte(nil)
	for range 100 {
		publishes, _ = packet.AppendPublish(publishes, &packet.Publish{Topic: []byte("plant/7/temp"), Payload: make([]byte, 128), QoS: 1, ID: 1}, packet.V311)
	}
	for _, bb := range []struct {
		name string
		data []byte
	}{
		{"100_PUBLISH", publishes},
		{"100_PUBACK_in_order", packet.AppendAckRun(nil, packet.PUBACK, 1, 100)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var a Arena
			var h counter
			c := &Conn{fd: -1, Version: packet.V311}
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.data)))
			for b.Loop() {
				if err := c.Take(bb.data, &a, &h); err != nil {
					b.Fatal(err)
				}
			}
			if h.packets+h.acks != 100*b.N {
				b.Fatalf("%d packets, want %d", h.packets+h.acks, 100*b.N)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100), "ns/packet")
		})
	}
}

// BenchmarkSend is a turn that sends 100 messages to each of 100 connections; what they write goes nowhere.
func BenchmarkSend(b *testing.B) {
	for _, bb := range []struct {
		name string
		qos  packet.QoS
	}{{"100_to_100/QoS_0", 0}, {"100_to_100/QoS_2_with_PUBRELs", 2}} {
		b.Run(bb.name, func(b *testing.B) {
			null, err := unix.Open("/dev/null", unix.O_WRONLY, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(null)
			var a Arena
			conns := make([]Conn, 100)
			for i := range conns {
				conns[i] = Conn{fd: int32(null), events: wantRead}
			}
			p := packet.Publish{Topic: []byte("plant/7/temp"), Payload: make([]byte, 128), QoS: bb.qos, ID: 1}
			b.ReportAllocs()
			for b.Loop() {
				for k := range 100 {
					s := a.Publish(&p, packet.V311)
					for i := range conns {
						conns[i].Send(&a, s, packet.ID(1+k))
					}
				}
				if bb.qos == 2 {
					for i := range conns {
						conns[i].SendReleases(&a, 200, 100)
					}
				}
				a.Flush(nil)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*100*100), "ns/message")
		})
	}
}
