package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Mosquitto runs mosquitto with its files in dir: on a free loopback address, open to everybody,
// without persistence, with unlimited queues. more is appended to its configuration.
func Mosquitto(ctx context.Context, dir string, more ...string) (*Process, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	conf := strings.Join(append([]string{
		"listener " + port + " 127.0.0.1",
		"allow_anonymous true",
		"persistence false",
		"max_queued_messages 0",
		"max_inflight_messages 1000",
		"set_tcp_nodelay true",
		"log_dest stderr",
		"log_type error",
		"log_type warning",
		// Started by root it would become a user who cannot read the folder of the test.
		"user root",
	}, more...), "\n") + "\n"
	path, err := mosquittoPath()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	return Start(ctx, Spec{
		Path: path, Args: []string{"-c", file},
		Log: filepath.Join(dir, "mosquitto.log"), Network: "tcp", Address: address,
	})
}

// mosquittoPath finds the binary, which Debian puts where users have no PATH to.
func mosquittoPath() (string, error) {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path, nil
	}
	const sbin = "/usr/sbin/mosquitto"
	if _, err := os.Stat(sbin); err != nil {
		return "", fmt.Errorf("process: no mosquitto to test against; install it: apt-get install mosquitto mosquitto-clients")
	}
	return sbin, nil
}
