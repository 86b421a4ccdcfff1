package loop

import (
	"testing"
	"time"

	"dunlin/core/conn"
	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

// What has waited for the socket may leave together with what is sent behind it, before the poller has
// said that the socket takes more: then the poller says nothing.
func TestOutputThatLeavesWithAFlushIsAnnounced(t *testing.T) {
	for _, tt := range []struct {
		name string
		peer func(fd int) // makes that the output goes
	}{
		{"the peer takes it", func(fd int) {
			buf := make([]byte, 64<<10)
			for err := error(nil); err == nil; {
				_, err = unix.Read(fd, buf)
			}
		}},
		{"the peer is gone", func(fd int) { unix.Shutdown(fd, unix.SHUT_RDWR) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[1])
			var c *conn.Conn
			announced := make(chan struct{}, 1)
			s := &server{
				accepted: func(k *conn.Conn) bool { c = k; return true },
				drained: func(*conn.Conn) {
					if c.Unsent() == 0 {
						announced <- struct{}{}
					}
				},
			}
			serve(t, s)
			s.do(t, func() {
				s.loop.adopt(fds[0], nil)
				s.loop.Pause(c)
			})
			filler := make([]byte, 8<<10)
			for blocked := false; !blocked; {
				s.do(t, func() {
					c.Send(&s.loop.Arena, s.loop.Arena.Packet(func(dst []byte) []byte { return append(dst, filler...) }), 0)
				})
				s.do(t, func() { blocked = c.Blocked() })
			}
			s.do(t, func() { // all in one turn: the poller is not asked in between
				tt.peer(fds[1])
				c.Send(&s.loop.Arena, s.loop.Arena.Packet(packet.AppendPingresp), 0)
			})
			select {
			case <-announced:
			case <-time.After(guard):
				t.Fatal("nobody is told that the output has gone")
			}
		})
	}
}
