package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// output is a buffer that is written and read at once.
type output struct {
	sync.Mutex
	buffer bytes.Buffer
}

func (o *output) Write(data []byte) (int, error) {
	o.Lock()
	defer o.Unlock()
	return o.buffer.Write(data)
}

func (o *output) String() string {
	o.Lock()
	defer o.Unlock()
	return o.buffer.String()
}

type executors = func(*rest.Config, *rest.Request) (remotecommand.Executor, error)

func webSocket(config *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(config, http.MethodGet, request.URL().String())
}

func spdyStreams(config *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
	return remotecommand.NewSPDYExecutor(config, http.MethodPost, request.URL())
}

func (c *cluster) execute(ctx context.Context, executor executors, command []string, streams remotecommand.StreamOptions) error {
	request := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("clock").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "clock", Command: command, Stdin: streams.Stdin != nil,
			Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil, TTY: streams.Tty}, scheme.ParameterCodec)
	execution, err := executor(c.config, request)
	if err != nil {
		return err
	}
	return execution.StreamWithContext(ctx, streams)
}

func (c *cluster) executes(ctx context.Context, executor executors) error {
	var stdout, stderr output
	err := c.execute(ctx, executor, []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	var exit exec.CodeExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("no exit code: %v", err)
	}
	if err := all(equal("the exit code", exit.Code, 7), equal("output", stdout.String(), "out\n"), equal("errors", stderr.String(), "err\n")); err != nil {
		return err
	}
	// More than any buffer on the way, both ways at once.
	large := strings.Repeat("0123456789abcdef\n", 100_000)
	var back output
	err = c.execute(ctx, executor, []string{"cat"}, remotecommand.StreamOptions{Stdin: strings.NewReader(large), Stdout: &back})
	if err != nil {
		return err
	}
	if back.String() != large {
		return fmt.Errorf("%d bytes of %d came back", len(back.String()), len(large))
	}
	absent := c.execute(ctx, executor, []string{"no-such-program"}, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	return has(fmt.Sprint(absent, stderr.String()), "no-such-program")
}

func execWebSocket(ctx context.Context, c *cluster) error { return c.executes(ctx, webSocket) }
func execSPDY(ctx context.Context, c *cluster) error      { return c.executes(ctx, spdyStreams) }

// sizes is a terminal of one size after another.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, open := <-s
	if !open {
		return nil
	}
	return &size
}

func execTerminal(ctx context.Context, c *cluster) error {
	for name, executor := range map[string]executors{"WebSocket": webSocket, "SPDY": spdyStreams} {
		queue := make(sizes, 1)
		queue <- remotecommand.TerminalSize{Width: 111, Height: 33}
		var screen output
		typed, keys := io.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- c.execute(ctx, executor, []string{"sh"}, remotecommand.StreamOptions{Stdin: typed, Stdout: &screen, Tty: true, TerminalSizeQueue: queue})
		}()
		shows := func(part string) error {
			return eventually(ctx, func() error { return has(screen.String(), part) })
		}
		ask := func() { fmt.Fprintln(keys, "stty size") }
		err := eventually(ctx, func() error { ask(); time.Sleep(200 * time.Millisecond); return has(screen.String(), "33 111") })
		queue <- remotecommand.TerminalSize{Width: 77, Height: 22}
		err = all(err, eventually(ctx, func() error { ask(); time.Sleep(200 * time.Millisecond); return has(screen.String(), "22 77") }))
		fmt.Fprintln(keys, "echo by'e'; exit")
		err = all(err, shows("bye"))
		keys.Close()
		close(queue)
		if err := all(err, <-done); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	// A terminal for the command alone: client-go opens a stream for errors, and none for the size.
	request := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("clock").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "clock", Command: []string{"echo", "here"}, Stdout: true, Stderr: true, TTY: true},
			scheme.ParameterCodec)
	execution, err := spdyStreams(c.config, request)
	if err != nil {
		return err
	}
	var screen, stderr output
	err = execution.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &screen, Stderr: &stderr})
	return all(err, has(screen.String(), "here"))
}

func attachSPDY(ctx context.Context, c *cluster) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	request := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("clock").SubResource("attach").
		VersionedParams(&corev1.PodAttachOptions{Container: "clock", Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	execution, err := spdyStreams(c.config, request)
	if err != nil {
		return err
	}
	typed, keys := io.Pipe()
	var stdout, stderr output
	done := make(chan error, 1)
	go func() {
		done <- execution.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: typed, Stdout: &stdout, Stderr: &stderr})
	}()
	if err := eventually(ctx, func() error { return has(stdout.String(), "tick") }); err != nil {
		return err
	}
	fmt.Fprintln(keys, "attached")
	err = eventually(ctx, func() error { return has(stdout.String(), "read attached") })
	stop()
	<-done
	return err
}

func portForward(ctx context.Context, c *cluster) error {
	request := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("clock").SubResource("portforward")
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return err
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(request.URL(), c.config)
	if err != nil {
		return err
	}
	direct := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, request.URL())
	for name, dialer := range map[string]httpstream.Dialer{"SPDY": direct, "WebSocket": tunnel} {
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.New(dialer, []string{"0:9080"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { done <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			return fmt.Errorf("%s: %v", name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready", name)
		}
		ports, err := forwarder.GetPorts()
		if err != nil {
			return err
		}
		// Several connections over one tunnel.
		for range 3 {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/status/418", ports[0].Local))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			response.Body.Close()
			if err := equal(name, response.StatusCode, 418); err != nil {
				return err
			}
		}
		close(stop)
		<-done
	}
	return nil
}

func logs(ctx context.Context, c *cluster) error {
	lines := int64(2)
	tail, err := c.typed.CoreV1().Pods(namespace).GetLogs("clock", &corev1.PodLogOptions{Container: "clock", TailLines: &lines, Timestamps: true}).DoRaw(ctx)
	if err != nil {
		return err
	}
	follow, err := c.typed.CoreV1().Pods(namespace).GetLogs("clock", &corev1.PodLogOptions{Container: "clock", Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer follow.Close()
	piece := make([]byte, 20)
	if _, err := io.ReadFull(follow, piece); err != nil {
		return err
	}
	return all(equal("lines", strings.Count(string(tail), "\n"), 2), has(string(tail), "Z "), has(string(piece), "tick\n"))
}

func proxies(ctx context.Context, c *cluster) error {
	body, err := c.typed.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Name("clock:9080").SubResource("proxy").Suffix("headers").DoRaw(ctx)
	if err != nil && len(body) == 0 {
		return err
	}
	service := object[*corev1.Service](`{"metadata": {"name": "proxied"}, "spec": {"selector": {"app": "clock"}, "ports": [{"name": "http", "port": 80, "targetPort": 9080}]}}`)
	if err := c.createService(ctx, service); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		_, err := c.typed.CoreV1().Services(namespace).ProxyGet("http", "proxied", "80", "/", nil).DoRaw(ctx)
		return err
	})
}
