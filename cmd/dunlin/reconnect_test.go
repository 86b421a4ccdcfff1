package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/process"
	"dunlin/testbench/simnet"
)

// running is a run of the binary that the test talks to meanwhile.
type running struct {
	cmd         *exec.Cmd
	in          io.WriteCloser
	out, errors *bufio.Reader
}

func startDunlin(t *testing.T, args ...string) *running {
	t.Helper()
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	t.Cleanup(cancel)
	r := &running{cmd: exec.CommandContext(ctx, binary, args...)}
	in, errIn := r.cmd.StdinPipe()
	out, errOut := r.cmd.StdoutPipe()
	errs, errErr := r.cmd.StderrPipe()
	for _, err := range []error{errIn, errOut, errErr, r.cmd.Start()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.in, r.out, r.errors = in, bufio.NewReader(out), bufio.NewReader(errs)
	return r
}

// wantLine reads lines until one has the text, and fails the test if there is none.
func wantLine(t *testing.T, r *bufio.Reader, text string) {
	t.Helper()
	var seen strings.Builder
	for {
		line, err := r.ReadString('\n')
		seen.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("no line with %q in %q: %v", text, seen.String(), err)
		}
	}
}

// wait reads to the end, and returns what is left of the outputs.
func (r *running) wait(t *testing.T, code int) (out string, errs string) {
	t.Helper()
	said := make(chan string)
	go func() { // ends with the process; read below
		b, _ := io.ReadAll(r.errors)
		said <- string(b)
	}()
	b, _ := io.ReadAll(r.out)
	errs = <-said
	r.cmd.Wait()
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d; it said %q", got, code, errs)
	}
	return string(b), errs
}

// eachProcess runs a test against our broker and mosquitto, as processes that it may end.
func eachProcess(t *testing.T, test func(t *testing.T, p *process.Process)) {
	start := func(t *testing.T, run func() (*process.Process, error)) *process.Process {
		p, err := run()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Kill() })
		return p
	}
	t.Run("dunlin", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, func() (*process.Process, error) {
			return process.Dunlin(t.Context(), t.TempDir(), process.Gateway{})
		}))
	})
	t.Run("mosquitto", func(t *testing.T) {
		test(t, start(t, func() (*process.Process, error) { return process.Mosquitto(t.Context(), t.TempDir()) }))
	})
}

func TestSubGoesOnWhenTheBrokerIsBack(t *testing.T) {
	t.Parallel()
	eachProcess(t, func(t *testing.T, p *process.Process) {
		for _, v := range versions {
			at := []string{"-L", "mqtt://" + p.Spec.Address, "-V", v, "-W", "50", "-q", "1"}
			ready := args("pub", at, "-t", "r"+v, "-m", "ready", "-r")
			dunlin(t, "", ready...).check(t, 0, "", "")
			sub := startDunlin(t, args("sub", at, "-t", "r"+v, "-t", "a"+v, "-T", "nothing", "--reconnect", "-C", "3", "-v")...)
			wantLine(t, sub.out, "ready")
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			wantLine(t, sub.errors, "; again in ")
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantLine(t, sub.errors, "dunlin sub: connected\n")
			// mosquitto has forgotten the retained message; our broker sends it again where the
			// session is new.
			dunlin(t, "", args("pub", at, "-t", "a"+v, "-m", "one")...).check(t, 0, "", "")
			dunlin(t, "", args("pub", at, "-t", "a"+v, "-m", "two")...).check(t, 0, "", "")
			out, _ := sub.wait(t, 0)
			if !strings.HasPrefix(strings.TrimPrefix(out, "r"+v+" ready\n"), "a"+v+" one\n") {
				t.Errorf("version %s: sub printed %q", v, out)
			}
		}
	})
}

// Each line arrives once at QoS 2 and in order, although the connection breaks under them.
func TestLinesArriveOnceOverAnUnreliableNetwork(t *testing.T) {
	t.Parallel()
	const n = 2000
	eachProcess(t, func(t *testing.T, p *process.Process) {
		for _, v := range tellingVersions {
			t.Run(v, func(t *testing.T) {
				proxy, err := simnet.Listen(p.Spec.Address)
				if err != nil {
					t.Fatal(err)
				}
				defer proxy.Close()
				session := []string{"sub", "-L", "mqtt://" + p.Spec.Address, "-V", v, "-i", "keeper" + v, "-c", "-q", "2", "-t", "t" + v, "-W", "50"}
				dunlin(t, "", append(session, "-E")...).check(t, 0, "", "")

				options := []string{"pub", "-L", "mqtt://" + proxy.Addr() + "/t" + v, "-V", v, "-q", "2", "-l", "--reconnect", "-W", "50"}
				if v == "311" {
					options = append(options, "-i", "sender", "-c")
				}
				proxy.CutAfter(9_999)
				pub := startDunlin(t, options...)
				var lines []string
				for i := range n {
					lines = append(lines, fmt.Sprintf("line %d\n", i))
				}
				write := func(some []string) {
					if _, err := io.WriteString(pub.in, strings.Join(some, "")); err != nil {
						t.Fatal(err)
					}
				}
				write(lines[:n/2])
				wantLine(t, pub.errors, "; again in ")
				wantLine(t, pub.errors, "connected")
				proxy.CutAfter(7_777)
				write(lines[n/2:])
				wantLine(t, pub.errors, "connected")
				pub.in.Close()
				pub.wait(t, 0)

				got := dunlin(t, "", append(session, "-C", fmt.Sprint(n))...)
				if got.code != 0 {
					t.Errorf("exit code %d: %s", got.code, got.errors)
				}
				came := slices.Collect(strings.Lines(got.out))
				for i := range min(len(came), n) {
					if came[i] != lines[i] {
						t.Fatalf("%q came at the place of %q", came[i], lines[i])
					}
				}
				if len(came) != n {
					t.Errorf("%d lines came, want %d", len(came), n)
				}
			})
		}
	})
}

func TestReconnectGivesUpWhereItMakesNoSense(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer func(h packet.Header) []byte
		want   string
	}{
		{"refused", func(packet.Header) []byte {
			return packet.AppendConnack(nil, &packet.Connack{Code: packet.NotAuthorized}, packet.V5)
		}, "dunlin sub: the broker refused the connection: Not authorized (0x87)\n"},
		{"taken over", func(h packet.Header) []byte {
			if h.Type == packet.CONNECT {
				return packet.AppendConnack(nil, &packet.Connack{}, packet.V5)
			}
			return packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.SessionTakenOver}, packet.V5)
		}, "dunlin sub: the broker ended the connection: Session taken over (0x8E)\n"},
		{"subscription refused", func(h packet.Header) []byte {
			if h.Type == packet.CONNECT {
				return packet.AppendConnack(nil, &packet.Connack{}, packet.V5)
			}
			return packet.AppendSuback(nil, &packet.Suback{ID: 1, Codes: []packet.ReasonCode{packet.QuotaExceeded}}, packet.V5)
		}, "dunlin sub: the broker refused the subscription to a: Quota exceeded (0x97)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := fakeBroker(t, "tcp", "127.0.0.1:0", func(h packet.Header, _ []byte) []byte { return tt.answer(h) })
			dunlin(t, "", "sub", "-L", "mqtt://"+address, "-t", "a", "--reconnect", "-W", "30").check(t, 1, "", tt.want)
		})
	}
}

func TestReconnectWaitsForABrokerThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	pub := startDunlin(t, "pub", "-L", "mqtt://"+address, "-t", "a", "-m", "x", "-q", "1", "--reconnect", "-W", "50")
	wantLine(t, pub.errors, "connection refused; again in ")
	fakeBroker(t, "tcp", address, func(h packet.Header, body []byte) []byte {
		switch h.Type {
		case packet.CONNECT:
			return packet.AppendConnack(nil, &packet.Connack{}, packet.V5)
		case packet.PUBLISH:
			p, _ := packet.ParsePublish(body, h.Flags, packet.V5)
			return packet.AppendAck(nil, &packet.Ack{Type: packet.PUBACK, ID: p.ID}, packet.V5)
		}
		return nil
	})
	pub.wait(t, 0)
}
