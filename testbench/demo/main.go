// Command demo shows what a gateway is for, in under a minute: simulated devices publish to a
// gateway, which forwards to a stand-in for the cloud. The link to the cloud is cut, the gateway
// is killed while messages wait in it, both come back, and at the end the books are compared:
// accepted, delivered, lost.
//
//	go run ./testbench/demo [--devices 10] [--rate 200] [--speed 1]
//
// The gateway and the cloud are two processes of the real binary. The exit status is 1 if a
// message was lost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"dunlin/testbench/process"
)

func main() {
	s := new(scene)
	flag.IntVar(&s.devices, "devices", 10, "simulated devices")
	flag.IntVar(&s.rate, "rate", 200, "messages per second of each device")
	flag.Float64Var(&s.speed, "speed", 1, "how much faster than usual the story is told")
	flag.Parse()
	if flag.NArg() > 0 || s.devices < 1 || s.rate < 1 || s.speed <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := perform(ctx, s)
	stop()
	process.Cleanup()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// perform plays the scene in a folder of its own.
func perform(ctx context.Context, s *scene) error {
	dir, err := os.MkdirTemp("", "dunlin-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	screen := newScreen(os.Stdout)
	err = s.play(ctx, dir, screen)
	screen.end()
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}
