package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

// versions are those that pub and sub speak, as -V takes them.
var versions = []string{"5", "311", "31"}

// tellingVersions are those whose brokers tell a client that they have its session, and that they
// refuse a subscription.
var tellingVersions = []string{"5", "311"}

// startBroker runs a broker and returns the options that lead to it. settings are overrides of
// its configuration.
func startBroker(t *testing.T, settings ...string) []string {
	t.Helper()
	p, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Errorf("the broker did not stop well: %v", err)
		}
	})
	host, port, err := net.SplitHostPort(p.Spec.Address)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-h", host, "-p", port, "-W", "30"}
}

func TestMessagesGoThrough(t *testing.T) {
	at := startBroker(t)
	file := writeFile(t, "message", "from a\nfile")
	for _, v := range versions {
		for _, tt := range []struct {
			name, stdin string
			args        []string
			want        string
		}{
			{"text", "", []string{"-m", "hello"}, "hello\n"},
			{"text at QoS 1", "", []string{"-q", "1", "-m", "hello"}, "hello\n"},
			{"text at QoS 2", "", []string{"-q", "2", "-m", "hello"}, "hello\n"},
			{"nothing", "", []string{"-n"}, "\n"},
			{"a file", "", []string{"-f", file}, "from a\nfile\n"},
			{"standard input", "a\nb\n", []string{"-s", "-q", "1"}, "a\nb\n\n"},
			{"lines", "one\ntwo\r\n\nfour", []string{"-l", "-q", "2"}, "one\ntwo\n\nfour\n"},
		} {
			t.Run(v+"/"+tt.name, func(t *testing.T) {
				// sub is subscribed when it prints the retained message.
				topic := "t/" + strings.ReplaceAll(t.Name(), " ", "_")
				ready := topic + "/ready"
				n := strings.Count(tt.want, "\n")
				if tt.name == "a file" || tt.name == "standard input" || tt.name == "nothing" {
					n = 1
				}
				dunlin(t, "", args("pub", at, "-V", v, "-t", ready, "-r", "-m", "ready", "-q", "1")...).check(t, 0, "", "")
				sub, out := startSub(t, args("sub", at, "-V", v, "-t", topic, "-t", ready, "-q", "2", "-C", fmt.Sprint(n+1))...)
				if line, err := out.ReadString('\n'); line != "ready\n" {
					t.Fatalf("sub printed %q, %v", line, err)
				}
				dunlin(t, tt.stdin, args("pub", at, append([]string{"-V", v, "-t", topic}, tt.args...)...)...).check(t, 0, "", "")
				got, err := io.ReadAll(out)
				if err != nil || string(got) != tt.want {
					t.Errorf("sub printed %q, %v; want %q", got, err, tt.want)
				}
				if err := sub.Wait(); err != nil {
					t.Errorf("sub: %v", err)
				}
			})
		}
	}
}

// args puts the options that lead to the broker behind the subcommand.
func args(subcommand string, at []string, more ...string) []string {
	return append(append([]string{subcommand}, at...), more...)
}

// startSub runs a sub that prints into a pipe.
func startSub(t *testing.T, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

func TestRetainedMessageIsKeptAndDeleted(t *testing.T) {
	at := startBroker(t)
	dunlin(t, "", args("pub", at, "-t", "a/b", "-r", "-m", "kept", "-q", "1")...).check(t, 0, "", "")
	dunlin(t, "", args("pub", at, "-t", "end", "-r", "-m", "last", "-q", "1")...).check(t, 0, "", "")
	both := args("sub", at, "-v", "-t", "a/#", "-t", "end")
	dunlin(t, "", append(both, "-C", "2")...).check(t, 0, "a/b kept\nend last\n", "")
	dunlin(t, "", args("pub", at, "-t", "a/b", "-r", "-n", "-q", "1")...).check(t, 0, "", "")
	dunlin(t, "", append(both, "-C", "1")...).check(t, 0, "end last\n", "")
}

func TestSessionKeepsMessagesForSub(t *testing.T) {
	at := startBroker(t)
	for _, v := range versions {
		ready := "ready" + v
		dunlin(t, "", args("pub", at, "-t", ready, "-r", "-m", "ready", "-q", "1")...).check(t, 0, "", "")
		session := args("sub", at, "-V", v, "-i", "keeper"+v, "-c", "-q", "1", "-t", "s"+v)
		dunlin(t, "", append(session, "-t", ready, "-C", "1")...).check(t, 0, "ready\n", "")
		publish := args("pub", at, "-V", v, "-t", "s"+v, "-q", "1", "-l")
		dunlin(t, "one\ntwo\nthree\n", publish...).check(t, 0, "", "")
		// What was not printed is not acknowledged: two now, one is left.
		dunlin(t, "", append(session, "-C", "2")...).check(t, 0, "one\ntwo\n", "")
		dunlin(t, "four\n", publish...).check(t, 0, "", "")
		dunlin(t, "", append(session, "-C", "2")...).check(t, 0, "three\nfour\n", "")
	}
}

func TestUsersDoWhatTheirRulesAllow(t *testing.T) {
	passwords := filepath.Join(t.TempDir(), "passwords")
	dunlin(t, "secret\n", "passwd", passwords, "ann").check(t, 0, "…", "")
	socket := filepath.Join(t.TempDir(), "s")
	at := startBroker(t, "auth.passwords="+passwords, "listeners.1.address=unix:"+socket,
		"access.users.ann.publish.0=from/%u/#", "access.users.ann.subscribe.0=from/#")
	ann := []string{"-u", "ann", "-P", "secret", "-q", "1"}
	for _, v := range tellingVersions {
		pub := args("pub", at, "-V", v, "-m", "x")
		dunlin(t, "", append(append(pub, ann...), "-r", "-t", "from/ann/1")...).check(t, 0, "", "")
		dunlin(t, "", append(pub, "-t", "from/ann/1", "-u", "ann", "-P", "wrong")...).check(t, 1, "",
			"dunlin pub: the broker refused the connection: Bad User Name or Password (0x86)\n")
		dunlin(t, "", append(pub, "-t", "from/ann/1")...).check(t, 1, "",
			"dunlin pub: the broker refused the connection: Not authorized (0x87)\n")
		sub := append([]string{"sub", "-h", "unix:" + socket, "-W", "30", "-V", v, "-C", "1"}, ann...)
		dunlin(t, "", append(sub, "-t", "from/+/1")...).check(t, 0, "x\n", "")
		refusal := map[string]string{"5": `Not authorized (0x87): "the access rules do not let this client subscribe to a filter"`, "311": "Unspecified error (0x80)"}[v]
		dunlin(t, "", append(sub, "-t", "#")...).check(t, 1, "",
			"dunlin sub: the broker refused the subscription to #: "+refusal+"\n")
	}
	dunlin(t, "", args("pub", at, append(ann, "-m", "x", "-t", "from/bob/1")...)...).check(t, 1, "",
		"dunlin pub: the broker refused the message to from/bob/1: Not authorized (0x87): "+
			"\"the access rules do not let this client publish to the topic\"\n")
}

func TestManyLinesArePublishedInOrder(t *testing.T) {
	at := startBroker(t)
	const n = 5000
	var text strings.Builder
	for i := range n {
		fmt.Fprintln(&text, "line", i)
	}
	dunlin(t, "", args("pub", at, "-t", "r", "-r", "-m", "ready", "-q", "1")...).check(t, 0, "", "")
	sub, out := startSub(t, args("sub", at, "-t", "many", "-t", "r", "-q", "1", "-C", fmt.Sprint(n+1))...)
	out.ReadString('\n')
	dunlin(t, text.String(), args("pub", at, "-t", "many", "-l", "-q", "1")...).check(t, 0, "", "")
	got, err := io.ReadAll(out)
	if err != nil || string(got) != text.String() {
		t.Errorf("%d bytes came, %v; want %d as they were sent", len(got), err, text.Len())
	}
	if err := sub.Wait(); err != nil {
		t.Errorf("sub: %v", err)
	}
}

func TestSubEndsWellWhenItIsInterrupted(t *testing.T) {
	at := startBroker(t)
	dunlin(t, "", args("pub", at, "-t", "a", "-r", "-m", "ready", "-q", "1")...).check(t, 0, "", "")
	for _, tt := range []struct {
		name string
		more []string
		code int
	}{{"without a count", nil, 0}, {"with a count that is not reached", []string{"-C", "2"}, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			sub, out := startSub(t, args("sub", at, append([]string{"-t", "a"}, tt.more...)...)...)
			out.ReadString('\n')
			sub.Process.Signal(syscall.SIGTERM)
			io.Copy(io.Discard, out)
			sub.Wait()
			if code := sub.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
		})
	}
}

// fakeBroker answers one connection after the other with the packets that come out of script.
func fakeBroker(t *testing.T, network, address string, script func(h packet.Header, body []byte) []byte) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ended by closing the listener; the cleanup waits for it
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(hang))
			r := bufio.NewReader(conn)
			for {
				head, err := r.Peek(2)
				if err != nil || head[1] > 127 {
					break
				}
				h, n, err := packet.ParseHeader(head)
				if err != nil {
					break
				}
				body := make([]byte, n+h.Remaining)
				if _, err := io.ReadFull(r, body); err != nil {
					break
				}
				answer := script(h, body[n:])
				if answer == nil {
					break
				}
				conn.Write(answer)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

func TestRefusalIsSaidInWords(t *testing.T) {
	ack := func(b []byte) func(packet.Header, []byte) []byte {
		return func(h packet.Header, _ []byte) []byte {
			if h.Type == packet.CONNECT {
				return packet.AppendConnack(nil, &packet.Connack{}, packet.V5)
			}
			return b
		}
	}
	for _, tt := range []struct {
		name   string
		script func(packet.Header, []byte) []byte
		args   []string
		want   string
	}{
		{
			"credentials", func(packet.Header, []byte) []byte {
				return packet.AppendConnack(nil, &packet.Connack{Code: packet.BadUserNameOrPassword}, packet.V5)
			},
			[]string{"pub", "-t", "a", "-m", "x"},
			"dunlin pub: the broker refused the connection: Bad User Name or Password (0x86)\n",
		}, {
			"version", func(packet.Header, []byte) []byte { return []byte{0x20, 2, 0, 1} },
			[]string{"pub", "-t", "a", "-m", "x"},
			"dunlin pub: the broker refused the connection: Unsupported Protocol Version (0x84); it may speak 3.1.1: try -V 311\n",
		}, {
			"message",
			ack(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBACK, ID: 1, Code: packet.NotAuthorized, Reason: []byte("not yours")}, packet.V5)),
			[]string{"pub", "-t", "a", "-m", "x", "-q", "1"},
			"dunlin pub: the broker refused the message to a: Not authorized (0x87): \"not yours\"\n",
		}, {
			"subscription",
			ack(packet.AppendSuback(nil, &packet.Suback{ID: 1, Codes: []packet.ReasonCode{0, packet.NotAuthorized}, Reason: []byte("not yours")}, packet.V5)),
			[]string{"sub", "-t", "a", "-t", "b/#"},
			"dunlin sub: the broker refused the subscription to b/#: Not authorized (0x87): \"not yours\"\n",
		}, {
			"end of the connection",
			ack(packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.ServerShuttingDown}, packet.V5)),
			[]string{"pub", "-t", "a", "-m", "x", "-q", "1"},
			"dunlin pub: the broker ended the connection: Server shutting down (0x8B); 1 message is not acknowledged\n",
		}, {
			"silence", ack(nil),
			[]string{"pub", "-t", "a", "-l", "-q", "2"},
			"dunlin pub: the connection is lost: the broker closed it; 1 message is not acknowledged\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, port, _ := net.SplitHostPort(fakeBroker(t, "tcp", "127.0.0.1:0", tt.script))
			dunlin(t, "line\n", append(tt.args, "-h", host, "-p", port)...).check(t, 1, "", tt.want)
		})
	}
}

func TestTimeoutEndsTheWaiting(t *testing.T) {
	silent := fakeBroker(t, "tcp", "127.0.0.1:0", func(h packet.Header, _ []byte) []byte {
		if h.Type == packet.CONNECT {
			return packet.AppendConnack(nil, &packet.Connack{}, packet.V5)
		}
		return packet.AppendSuback(nil, &packet.Suback{ID: 1, Codes: make([]packet.ReasonCode, 1)}, packet.V5)
	})
	host, port, _ := net.SplitHostPort(silent)
	dunlin(t, "", "sub", "-h", host, "-p", port, "-t", "a", "-W", "0.1").check(t, 1, "", "dunlin sub: the time is up\n")
}

func TestUnreachableBrokerIsSaidInWords(t *testing.T) {
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(address)
	dunlin(t, "", "pub", "-h", host, "-p", port, "-t", "a", "-m", "x").check(t, 1, "",
		"dunlin pub: no connection: dial tcp "+address+": connect: connection refused\n")
	dunlin(t, "", "sub", "-h", "unix:/nowhere/s", "-t", "a").check(t, 1, "",
		"dunlin sub: no connection: dial unix /nowhere/s: connect: no such file or directory\n")
	dunlin(t, "", "pub", "-t", "a", "-f", "/nowhere/f").check(t, 1, "",
		"dunlin pub: the message cannot be read: open /nowhere/f: no such file or directory\n")
}

func TestUnixSocketAndCredentialsReachTheBroker(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	connects := make(chan packet.Connect, 2)
	fakeBroker(t, "unix", socket, func(h packet.Header, body []byte) []byte {
		if h.Type != packet.CONNECT {
			return nil
		}
		c, err := packet.ParseConnect(body)
		if err != nil {
			t.Errorf("CONNECT: %v", err)
		}
		connects <- c
		return packet.AppendConnack(nil, &packet.Connack{}, c.Version)
	})
	pub := []string{"pub", "-h", "unix:" + socket, "-t", "a", "-m", "x", "-i", "me", "-u", "ann", "-k", "0"}
	execute(t, nil, []string{"DUNLIN_PASSWORD=hidden"}, append(pub,
		"--will-topic", "w", "--will-payload", "gone", "--will-qos", "1", "--will-retain")...).check(t, 0, "", "")
	c := <-connects
	if string(c.ClientID) != "me" || string(c.Username) != "ann" || string(c.Password) != "hidden" || c.KeepAlive != 0 {
		t.Errorf("CONNECT %+v", c)
	}
	if w := c.Will; string(w.Topic) != "w" || string(w.Payload) != "gone" || w.QoS != 1 || !w.Retain {
		t.Errorf("will %+v", w)
	}
	execute(t, nil, []string{"DUNLIN_PASSWORD=hidden"}, append(pub, "-P", "given", "-V", "311")...).check(t, 0, "", "")
	if c := <-connects; string(c.Password) != "given" || c.Version != packet.V311 {
		t.Errorf("version %d, password %q; want that of the command line", c.Version, c.Password)
	}
}
