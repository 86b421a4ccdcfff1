package peers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mosquittoConn is a mosquitto_sub process, and mosquitto_pub processes beside it. As the
// programs connect and subscribe at once, nothing runs before subscribe.
type mosquittoConn struct {
	o       options
	version int
	cmd     *exec.Cmd
	in      inbox
	granted chan byte     // from the SUBACK
	over    chan struct{} // closed when the process has ended
}

func dialMosquitto(t *testing.T, o options, version int) conn {
	t.Helper()
	for _, program := range []string{"mosquitto_sub", "mosquitto_pub"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; install it: apt-get install mosquitto-clients", err)
		}
	}
	return &mosquittoConn{o: o, version: version, in: newInbox(), granted: make(chan byte, 1), over: make(chan struct{})}
}

// args are those that both programs take.
func (c *mosquittoConn) args(id string) []string {
	args := []string{"-i", id, "-V", map[int]string{5: "mqttv5", 4: "mqttv311", 3: "mqttv31"}[c.version]}
	if c.o.network == "unix" {
		return append(args, "--unix", c.o.address)
	}
	host, port, _ := net.SplitHostPort(c.o.address)
	return append(args, "-h", host, "-p", port)
}

func (c *mosquittoConn) subscribe(t *testing.T, filter string, qos byte) byte {
	t.Helper()
	// -d shows the SUBACK; each message is a line that begins with a tab.
	args := append(c.args(c.o.id), "-d", "-F", "\t%t\t%q\t%r\t%p", "-t", filter, "-q", strconv.Itoa(int(qos)))
	if !c.o.clean {
		args = append(args, "-c")
		if c.version == 5 {
			args = append(args, "-x", strconv.FormatUint(uint64(c.o.expiry), 10))
		}
	}
	if w := c.o.will; w != nil {
		args = append(args, "--will-topic", w.topic, "--will-payload", w.payload, "--will-qos", strconv.Itoa(int(w.qos)))
		if w.retain {
			args = append(args, "--will-retain")
		}
	}
	// Into a pipe it would write a block at a time.
	c.cmd = exec.Command("stdbuf", append([]string{"-oL", "mosquitto_sub"}, args...)...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.cmd.StdoutPipe()
	must(t, "mosquitto_sub", err)
	c.cmd.Stderr = c.cmd.Stdout
	must(t, "mosquitto_sub", c.cmd.Start())
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.over
	})
	go c.read(t, out) // ends with the process; Cleanup waits
	select {
	case granted := <-c.granted:
		return granted
	case <-c.over:
		t.Fatal("mosquitto_sub has ended")
	case <-time.After(guard):
		t.Fatal("mosquitto_sub does not get its SUBACK")
	}
	return 0x80
}

// read takes the output of mosquitto_sub apart until it ends.
func (c *mosquittoConn) read(t *testing.T, out io.Reader) {
	defer close(c.over)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "\t"):
			f := strings.SplitN(line[1:], "\t", 4)
			c.in.put(t, message{f[0], f[3], f[1][0] - '0', f[2] == "1"})
		case strings.HasPrefix(line, "Subscribed (mid: "):
			_, code, _ := strings.Cut(line, "): ")
			n, _ := strconv.Atoi(code)
			c.granted <- byte(n)
		}
	}
	c.cmd.Wait()
}

func (c *mosquittoConn) publish(t *testing.T, m message, expiry uint32) {
	t.Helper()
	args := append(c.args(c.o.id+"-pub"), "-t", m.topic, "-q", strconv.Itoa(int(m.qos)))
	if m.payload == "" {
		args = append(args, "-n")
	} else {
		args = append(args, "-m", m.payload)
	}
	if m.retain {
		args = append(args, "-r")
	}
	if expiry > 0 {
		if c.version != 5 {
			t.Fatal("3.1.1 has no message expiry")
		}
		args = append(args, "-D", "publish", "message-expiry-interval", strconv.FormatUint(uint64(expiry), 10))
	}
	ctx, cancel := within(t)
	defer cancel()
	out, err := exec.CommandContext(ctx, "mosquitto_pub", args...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("mosquitto_pub %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (c *mosquittoConn) disconnect(t *testing.T) {
	t.Helper()
	// It says DISCONNECT on SIGINT.
	c.signal(t, syscall.SIGINT)
}

func (c *mosquittoConn) drop(t *testing.T) {
	t.Helper()
	c.signal(t, syscall.SIGKILL)
}

func (c *mosquittoConn) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if c.cmd == nil {
		return
	}
	c.rest(t)
	if err := c.cmd.Process.Signal(s); !errors.Is(err, os.ErrProcessDone) {
		must(t, fmt.Sprint(s), err)
	}
	gone(t, c)
}

// rest waits until mosquitto_sub sleeps, which it does only to wait for the broker. It says its
// DISCONNECT from within the signal handler: a signal while it writes a PUBACK finds the mutex of
// its packets taken by itself, and it stands still for ever.
func (c *mosquittoConn) rest(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(guard)
	for time.Now().Before(deadline) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return // it has ended
		}
		must(t, "state of mosquitto_sub", err)
		// The state follows the name, which is in brackets (proc(5)).
		_, rest, _ := strings.Cut(string(stat), ") ")
		if rest[0] == 'S' || rest[0] == 'Z' {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("mosquitto_sub does not come to rest")
}

func (c *mosquittoConn) messages() <-chan message { return c.in }
func (c *mosquittoConn) ended() <-chan struct{}   { return c.over }
func (c *mosquittoConn) present() (bool, bool)    { return false, false }
