package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"dunlin/testbench/process"
)

// fromSource are the brokers that no registry has. They take part if the environment says where
// they were built: FLASHMQ is the program, SMART_MQTT a folder of jar files.
func fromSource() []*broker {
	var brokers []*broker
	if path := os.Getenv("FLASHMQ"); path != "" {
		brokers = append(brokers, &broker{
			"flashmq", "a thread for each processor, 65,535 messages and 1 GB pending per client",
			func(ctx context.Context) (string, error) { return firstLine(ctx, path, "--version") },
			func(ctx context.Context, dir string) (*process.Process, error) { return flashMQ(ctx, dir, path) },
		})
	}
	if jars := os.Getenv("SMART_MQTT"); jars != "" {
		brokers = append(brokers, &broker{
			"smart-mqtt", "1,000 in flight",
			func(context.Context) (string, error) {
				found, err := filepath.Glob(filepath.Join(jars, "smart-mqtt-broker-*.jar"))
				if err != nil || len(found) != 1 {
					return "", fmt.Errorf("SMART_MQTT=%s: want one smart-mqtt-broker-VERSION.jar there, and what it depends on", jars)
				}
				return filepath.Base(found[0]), nil
			},
			func(ctx context.Context, dir string) (*process.Process, error) { return smartMQTT(ctx, dir, jars) },
		})
	}
	return brokers
}

const flashMQConf = `
allow_anonymous true
storage_dir %s
log_file %s
max_qos_msg_pending_per_client 65535
max_qos_bytes_pending_per_client 1000000000
listen {
  protocol mqtt
  inet4_bind_address %s
  inet_protocol ip4
  port %s
}
`

func flashMQ(ctx context.Context, dir, path string) (*process.Process, error) {
	return started(ctx, dir, path, func(address string) ([]string, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "flashmq.conf")
		conf := fmt.Appendf(nil, flashMQConf, dir, filepath.Join(dir, "flashmq.log"), host, port)
		return []string{"--config-file", file}, os.WriteFile(file, conf, 0o600)
	})
}

const smartMQTTConf = `
broker:
  host: %s
  port: %s
  maxInflight: 1000
`

func smartMQTT(ctx context.Context, dir, jars string) (*process.Process, error) {
	return started(ctx, dir, "java", func(address string) ([]string, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "smart-mqtt.yaml")
		conf := fmt.Appendf(nil, smartMQTTConf, host, port)
		return []string{
			"-DbrokerConfig=" + file, "-cp", filepath.Join(jars, "*"), "org.smartboot.mqtt.broker.Bootstrap",
		}, os.WriteFile(file, conf, 0o600)
	})
}
