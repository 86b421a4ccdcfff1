package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/core/packet"
)

// Board is what a short series of runs says about a broker on a machine.
type Board struct {
	Started time.Time `json:"started"`
	Address string    `json:"address"`
	Version string    `json:"broker_version"` // as $SYS/broker/version has it, "" = does not say
	Machine Machine   `json:"machine"`        // of the generator
	Local   bool      `json:"local"`          // the broker runs on the same machine
	Storage string    `json:"storage,omitempty"`
	Results []*Result `json:"results"`
	Failed  []string  `json:"failed,omitempty"`
}

// series is small enough for a board with one core and 256 MB, and for the usual limits of open
// files.
var series = []struct {
	scenario string
	set      func(o *Options)
}{
	{"fanout", func(o *Options) { o.Subscribers, o.Topics = 500, 16 }},
	{"fanout", func(o *Options) { o.Subscribers, o.Topics, o.PubQoS, o.SubQoS = 500, 16, 1, 1 }},
	{"fanout", func(o *Options) { o.Subscribers, o.Topics, o.PubQoS, o.SubQoS = 500, 16, 2, 2 }},
	{"fanout", func(o *Options) { o.Subscribers, o.Topics, o.Every = 500, 16, time.Second }},
	{"fanin", func(o *Options) { o.Publishers, o.Window = 500, 5000 }},
	{"fanin", func(o *Options) { o.Publishers, o.Window, o.PubQoS, o.SubQoS = 500, 5000, 1, 1 }},
	{"pairs", func(o *Options) { o.Pairs, o.Rate, o.PubQoS, o.SubQoS = 20, 500, 1, 1 }},
	{"idle", func(o *Options) { o.Connections = 400 }},
	{"storm", func(o *Options) { o.Connections = 800 }},
	{"offline", func(o *Options) { o.Messages = 5000 }},
}

// RunBoard runs the series. o says where, as whom and how long. What fails does not hold back the
// rest.
func RunBoard(ctx context.Context, o Options) (*Board, error) {
	address, err := resolve(ctx, o.Address)
	if err != nil {
		return nil, err
	}
	b := &Board{Started: time.Now().UTC().Truncate(time.Second), Address: o.Address, Machine: ThisMachine()}
	if b.Version, err = askVersion(ctx, &o); err != nil {
		return nil, err
	}
	if p, err := FindListener(address); err == nil {
		b.Local, b.Storage = true, p.Storage()
	}
	for i, one := range series {
		s := Find(one.scenario)
		options := s.Options()
		options.Address, options.Version, options.Username, options.Password = o.Address, o.Version, o.Username, o.Password
		options.PID, options.Warmup, options.Measure, options.Progress = o.PID, o.Warmup, o.Measure, o.Progress
		one.set(&options)
		if one.scenario == "idle" && !b.Local && o.PID <= 0 {
			continue // is about the memory of the process
		}
		r, err := s.Run(ctx, options)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			b.Failed = append(b.Failed, fmt.Sprintf("run %d, %s: %v", i+1, s.Name, strings.TrimPrefix(err.Error(), "load: ")))
			continue
		}
		b.Results = append(b.Results, r)
	}
	return b, nil
}

// OK says whether nothing was wrong.
func (b *Board) OK() bool {
	for _, r := range b.Results {
		if !r.OK() {
			return false
		}
	}
	return len(b.Failed) == 0
}

// JSON writes b as an indented object.
func (b *Board) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(b)
}

// Text writes b for people.
func (b *Board) Text(w io.Writer) error {
	m := b.Machine
	lines := []string{
		"started    " + b.Started.Format(time.RFC3339),
		"broker     " + b.Address + ", " + b.Version,
		fmt.Sprintf("machine    %d × %s, %s, %d MiB", m.CPUs, m.CPU, m.Arch, m.MemoryKiB>>10),
		"kernel     " + m.Kernel,
	}
	if m.Board != "" {
		lines = append(lines, "board      "+m.Board)
	}
	if b.Storage != "" {
		lines = append(lines, "storage    "+b.Storage)
	}
	where := "on another machine: what its process uses is not known"
	if b.Local {
		where = "on the machine of the generator, which takes its part of the CPUs"
	}
	lines = append(lines, "the broker runs "+where, "")
	if _, err := io.WriteString(w, strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	for _, r := range b.Results {
		if err := r.Table(w); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	for _, f := range b.Failed {
		if _, err := fmt.Fprintln(w, "FAILED:", f); err != nil {
			return err
		}
	}
	return nil
}

// versionGuard bounds the wait for a broker that does not say its version.
const versionGuard = 3 * time.Second

// askVersion returns what the broker says about itself, "" if it says nothing. An error is one of
// the connection.
func askVersion(ctx context.Context, o *Options) (string, error) {
	c, err := (&net.Dialer{Timeout: o.Timeout}).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return "", fmt.Errorf("load: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(versionGuard)); err != nil {
		return "", fmt.Errorf("load: %w", err)
	}
	out := packet.AppendConnect(nil, &packet.Connect{
		Version: packet.V311, CleanStart: true, ClientID: []byte("bench-version"),
		Username: []byte(o.Username), HasUsername: o.Username != "",
		Password: []byte(o.Password), HasPassword: o.Password != "",
	})
	out = packet.AppendSubscribe(out, 1, 0, []packet.Subscription{{Filter: "$SYS/broker/version"}}, packet.V311)
	if _, err := c.Write(out); err != nil {
		return "", fmt.Errorf("load: %w", err)
	}
	in := bufio.NewReader(c)
	for {
		head, err := in.Peek(2)
		if err != nil {
			return "", nil // it does not say
		}
		whole := make([]byte, 2+int(head[1]))
		if head[1] >= 0x80 {
			return "", nil // longer than any version
		}
		if _, err := io.ReadFull(in, whole); err != nil {
			return "", nil // it does not say
		}
		if packet.Type(whole[0]>>4) != packet.PUBLISH {
			continue
		}
		p, err := packet.ParsePublish(whole[2:], whole[0]&0xf, packet.V311)
		if err != nil {
			return "", fmt.Errorf("load: %w", err)
		}
		return string(p.Payload), nil
	}
}

// Storage names the device below the files that the process has open for writing, "" if there are
// none or it can not be told.
func (p *Process) Storage() string {
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
	if err != nil {
		return ""
	}
	for _, fd := range open {
		path, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/dev/") {
			continue
		}
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil || s.Mode&unix.S_IFMT != unix.S_IFREG || strings.HasSuffix(path, ".log") {
			continue
		}
		return device(uint64(s.Dev)) + ", " + filesystem(path)
	}
	return ""
}

// device names a block device and its model.
func device(number uint64) string {
	link := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number))
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "no block device"
	}
	name := filepath.Base(path)
	// A partition is below its disk.
	for _, dir := range []string{path, filepath.Dir(path)} {
		for _, file := range []string{"device/model", "device/name"} {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				return name + " (" + strings.TrimSpace(string(b)) + ")"
			}
		}
	}
	return name
}

// filesystems are those that a gateway may have its data on.
var filesystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.F2FS_SUPER_MAGIC: "f2fs", 0x24051905: "ubifs",
}

func filesystem(path string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return "unknown file system"
	}
	magic := int64(uint32(s.Type)) // signed and narrow on some architectures
	if name, ok := filesystems[magic]; ok {
		return name
	}
	return fmt.Sprintf("file system 0x%X", magic)
}
