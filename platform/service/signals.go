package service

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends at SIGINT or SIGTERM, with the signal as its cause
// (context.Cause), or with its parent. The second such signal ends the process at once, for the
// case that closing in order hangs. stop gives the signals back; call it when closing is done.
//
// SIGPIPE and SIGHUP are ignored from here on: a gateway does not end because the reader of its
// log did, nor because something rotates logs that it does not write.
func Signals(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop = signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next signal has its default effect
	return ctx, stop
}
