package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"dunlin/core/packet"
)

// Raw is a bare connection, for what a Client would never send.
type Raw struct {
	net.Conn
	Version packet.Version // of the packets that Closed and Packet expect
}

// Dial opens a bare connection to network ("tcp" or "unix") and address.
func Dial(ctx context.Context, network, address string, v packet.Version) (*Raw, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &Raw{conn, v}, nil
}

// Packet reads one packet: its header and body.
func (r *Raw) Packet(ctx context.Context) (h packet.Header, body []byte, err error) {
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	h, body, err = readPacket(r.Conn, 0)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("client: nothing came: %w", ctx.Err())
	}
	return h, body, err
}

// Closed reads until the peer has closed the connection and returns what it said last: the code
// of a DISCONNECT or of a CONNACK that refuses, said false if it closed without a word. It
// returns an error if the connection is still open when ctx ends.
func (r *Raw) Closed(ctx context.Context) (code packet.ReasonCode, said bool, err error) {
	for {
		h, body, err := r.Packet(ctx)
		switch {
		case ctx.Err() != nil:
			return code, said, fmt.Errorf("client: the connection is still open: %w", ctx.Err())
		case err != nil:
			// EOF, a reset, or a broken packet: the peer is gone or useless.
			if _, ok := errors.AsType[*packet.Error](err); ok {
				return code, said, fmt.Errorf("client: the peer sent rubbish: %w", err)
			}
			return code, said, nil
		case h.Type == packet.DISCONNECT:
			d, err := packet.ParseDisconnect(body, r.Version)
			if err != nil {
				return code, said, fmt.Errorf("client: DISCONNECT: %w", err)
			}
			code, said = d.Code, true
		case h.Type == packet.CONNACK:
			// One who does not know the version answers in a form of its own choice, with
			// properties or without.
			v := packet.V5
			if len(body) == 2 {
				v = packet.V311
			}
			c, err := packet.ParseConnack(body, v)
			if err != nil {
				return code, said, fmt.Errorf("client: CONNACK: %w", err)
			}
			if c.Code != packet.Success {
				code, said = c.Code, true
			}
		}
	}
}

// HalfClose tells the peer that nothing more comes and leaves the other direction open.
func (r *Raw) HalfClose() error {
	type closeWriter interface{ CloseWrite() error }
	if c, ok := r.Conn.(closeWriter); ok {
		return c.CloseWrite()
	}
	return io.ErrClosedPipe
}
