package loop

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"dunlin/core/conn"
	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

// benchLoop returns a loop that is turned by hand and answers each packet.
func benchLoop(b *testing.B, hands int) (l *Loop, s *server) {
	s = &server{ended: make(chan error, 1000)}
	l, err := New(s, 0)
	if err != nil {
		b.Fatal(err)
	}
	s.loop = l
	s.packet = func(c *conn.Conn, _ packet.Header) error {
		c.Send(&l.Arena, l.Arena.Packet(packet.AppendPingresp), 0)
		return nil
	}
	if hands > 0 {
		crew := conn.NewCrew(hands)
		b.Cleanup(crew.Close)
		l.Arena.Join(crew)
		l.reader = newReader(l, crew)
	}
	b.Cleanup(func() {
		l.closeAll()
		l.end()
	})
	return l, s
}

func turn(b *testing.B, l *Loop) {
	if err := l.Turn(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTurn is a turn in which each of some sockets has ten packets of 140 bytes and gets ten
// answers: one read and one write for each.
func BenchmarkTurn(b *testing.B) {
	for _, sockets := range []int{1, 10, 200} {
		for _, hands := range []int{0, 1, 3} {
			b.Run(fmt.Sprintf("%d connections/hands %d", sockets, hands), func(b *testing.B) {
				l, _ := benchLoop(b, hands)
				peers := make([]int, sockets)
				for i := range peers {
					fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
					if err != nil {
						b.Fatal(err)
					}
					l.adopt(fds[0], nil)
					peers[i] = fds[1]
					defer unix.Close(fds[1])
				}
				one, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("bench/8"), Payload: make([]byte, 128)}, packet.V311)
				ten := bytes.Repeat(one, 10)
				buf := make([]byte, 64)
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					for _, p := range peers {
						if n, err := unix.Write(p, ten); n != len(ten) || err != nil {
							b.Fatal(n, err)
						}
					}
					b.StartTimer()
					turn(b, l)
					b.StopTimer()
					for _, p := range peers {
						if n, err := unix.Read(p, buf); n != 20 || err != nil {
							b.Fatal(n, err)
						}
					}
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkStorm accepts 100 connections and ends them, as their peers reset them.
func BenchmarkStorm(b *testing.B) {
	l, s := benchLoop(b, 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	if err := l.Listen(ln, nil); err != nil {
		b.Fatal(err)
	}
	accepted := 0
	s.accepted = func(*conn.Conn) bool { accepted++; return true }
	peers := make([]*net.TCPConn, 100)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for i := range peers {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			peers[i] = c.(*net.TCPConn)
			if err := peers[i].SetLinger(0); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		for accepted = 0; accepted < len(peers); {
			turn(b, l)
		}
		b.StopTimer()
		for _, c := range peers {
			c.Close()
		}
		b.StartTimer()
		for ended := 0; ended < len(peers); {
			turn(b, l)
			for ; len(s.ended) > 0; ended++ {
				<-s.ended
			}
		}
	}
}
