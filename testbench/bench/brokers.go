package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

// broker is one that takes part.
type broker struct {
	name    string
	words   string // how it is configured
	version func(ctx context.Context) (string, error)
	run     func(ctx context.Context, dir string) (*process.Process, error)
}

// all are the brokers, ours first. bin has what the makefile builds.
func all(bin string) []*broker {
	return append([]*broker{
		{
			"dunlin", "as packaged, but for the bound of a queue: 2,000,000 messages", ours,
			func(ctx context.Context, dir string) (*process.Process, error) {
				return process.Dunlin(ctx, dir, process.Gateway{})
			},
		},
		{
			"mosquitto", "persistence off, unlimited queues, 1,000 in flight, TCP_NODELAY",
			func(ctx context.Context) (string, error) { return firstLine(ctx, mosquitto(), "-h") },
			func(ctx context.Context, dir string) (*process.Process, error) { return process.Mosquitto(ctx, dir) },
		},
		{
			"mochi", "testbench/bench/peers/mochi", moduleVersion(filepath.Join(bin, "peers/mochi"), "github.com/mochi-mqtt/server/v2"),
			func(ctx context.Context, dir string) (*process.Process, error) {
				return started(ctx, dir, filepath.Join(bin, "peers/mochi"), func(address string) ([]string, error) { return []string{address}, nil })
			},
		},
		{
			"nats-server", "JetStream on the disk of the run, MQTT 3.1.1",
			func(ctx context.Context) (string, error) {
				return firstLine(ctx, filepath.Join(bin, "peers/nats-server"), "--version")
			},
			func(ctx context.Context, dir string) (*process.Process, error) { return nats(ctx, dir, bin) },
		},
	}, fromSource()...)
}

// threads are dunlin with one, two and four threads that read and write. The first has its plain
// name: it is the one that the ratios are about.
func threads() (all []*broker) {
	for _, n := range []int{1, 2, 4} {
		name := "dunlin"
		if n > 1 {
			name = fmt.Sprintf("dunlin, %d threads", n)
		}
		setting := fmt.Sprintf("io_threads=%d", n)
		all = append(all, &broker{
			name, "--set " + setting, ours,
			func(ctx context.Context, dir string) (*process.Process, error) {
				return process.Dunlin(ctx, dir, process.Gateway{Settings: []string{setting}})
			},
		})
	}
	return all
}

// bare is the fan-out without a broker.
func bare(bin string) *broker {
	return &broker{
		name: "bare", words: "a fan-out that knows where a packet ends, and nothing else",
		run: func(ctx context.Context, dir string) (*process.Process, error) {
			return started(ctx, dir, filepath.Join(bin, "dunlin-bench"), func(address string) ([]string, error) {
				return []string{"bare", address}, nil
			})
		},
	}
}

// started runs path with the arguments that args returns for a free address.
func started(
	ctx context.Context, dir, path string, args func(address string) ([]string, error),
) (*process.Process, error) {
	path, err := exec.LookPath(path)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	address, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	given, err := args(address)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return process.Start(ctx, process.Spec{
		Path: path, Args: given, Dir: dir, Log: filepath.Join(dir, "log"), Network: "tcp", Address: address,
	})
}

// natsConf makes nats-server speak MQTT. Its own port is closed to nobody, and not used. It allows
// a client 65,535 messages in flight and divides them among its subscriptions, which are 128 here.
const natsConf = `
server_name: bench
listen: 127.0.0.1:-1
jetstream { store_dir: %q }
mqtt { listen: %q, max_ack_pending: 500 }
`

func nats(ctx context.Context, dir, bin string) (*process.Process, error) {
	return started(ctx, dir, filepath.Join(bin, "peers/nats-server"), func(address string) ([]string, error) {
		file := filepath.Join(dir, "nats.conf")
		return []string{"-c", file}, os.WriteFile(file, fmt.Appendf(nil, natsConf, filepath.Join(dir, "js"), address), 0o600)
	})
}

func mosquitto() string {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path
	}
	return "/usr/sbin/mosquitto"
}

func ours(ctx context.Context) (string, error) {
	path, err := process.Binary()
	if err != nil {
		return "", err
	}
	return firstLine(ctx, path, "version")
}

// firstLine returns the first line that a command prints. What it thinks of being asked does not
// count: mosquitto -h ends with status 3.
func firstLine(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}

// moduleVersion tells which version of a module a binary was built from.
func moduleVersion(path, module string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return "", err
		}
		for _, d := range info.Deps {
			if d.Path == module {
				return d.Path + " " + d.Version + ", " + info.GoVersion, nil
			}
		}
		return "", fmt.Errorf("%s is not built from %s", path, module)
	}
}

// startGuard bounds the wait for a broker that does not come up.
const startGuard = 30 * time.Second

// startTime measures how long it takes from the start of a process to its first CONNACK, and what
// it needs when it has nothing to do.
func startTime(ctx context.Context, b *broker, dir string) (figures, error) {
	p, err := b.run(ctx, dir) // makes its files, finds an address
	if err != nil {
		return nil, err
	}
	if err := p.Kill(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.Launch(); err != nil {
		return nil, err
	}
	defer p.Kill()
	for {
		err := connack(ctx, p.Spec.Address)
		if err == nil {
			break
		}
		select {
		case <-p.Exited():
			return nil, fmt.Errorf("ended before it answered: %s", p.Tail(500))
		default:
		}
		if time.Since(began) > startGuard {
			return nil, fmt.Errorf("no CONNACK after %v: %w", startGuard, err)
		}
		time.Sleep(200 * time.Microsecond)
	}
	took := time.Since(began)
	// A look at the memory of one that rests: what the start has left behind is given back by then.
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	rss, err := p.Resident()
	return figures{"start_ms": float64(took) / 1e6, "idle_rss_mib": float64(rss) / (1 << 20)}, err
}

func connack(ctx context.Context, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(startGuard)); err != nil {
		return err
	}
	connect := packet.AppendConnect(nil, &packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("first")})
	if _, err := c.Write(connect); err != nil {
		return err
	}
	var answer [4]byte
	_, err = c.Read(answer[:])
	return err
}
