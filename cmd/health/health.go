// Package health serves the health of a program on a unix socket, and has the client
// that the probes of its container run.
//
// A socket in a volume of the pod cannot be occupied by another program, as a TCP port
// of the host can, and is not reachable from outside the pod. The kubelet does not
// request unix sockets, so it executes the program itself with the flag --probe.
//
// Listener is for other ports: it waits until the port is free.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// DefaultSocket is the default path of the socket. Its directory must be a volume of
// the pod.
const DefaultSocket = "/run/fairlead/health.sock"

// Help texts of the flags of the programs.
const (
	SocketHelp = "Path of the unix socket that serves /healthz and /readyz; empty disables it."
	ProbeHelp  = "Request a path, such as readyz, from the running program over --health-socket, print the response and exit." +
		" The exit status is 0 if the check succeeds."
)

// Endpoints are the paths that Serve serves.
const (
	livenessPath  = "/healthz"
	readinessPath = "/readyz"
)

// Checks are the checks of a program. The functions may be called concurrently.
type Checks struct {
	// NotReady returns why the program is not ready; an empty list if it is.
	NotReady func() []string
	// Warnings are reported by a program that is ready.
	Warnings func() []string
}

// Serve serves /healthz, which succeeds while the process runs, and /readyz, which
// succeeds if the program is ready, until ctx ends. It replaces a socket that a killed
// process has left.
func Serve(ctx context.Context, socket string, c Checks) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--health-socket: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("--health-socket: %w; its directory must be a writable volume", err)
	}
	server := &http.Server{Handler: c.handler(), ReadHeaderTimeout: timeout}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", socket, err)
	}
	return nil
}

func (c Checks) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(livenessPath, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc(readinessPath, func(w http.ResponseWriter, _ *http.Request) {
		if reasons := c.NotReady(); len(reasons) > 0 {
			http.Error(w, "not ready: "+strings.Join(reasons, "\nnot ready: "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
		for _, warning := range c.Warnings() {
			fmt.Fprintln(w, "warning: "+warning)
		}
	})
	return mux
}

// timeout bounds a probe.
const timeout = 5 * time.Second

// Probe requests the path from the program that serves on the socket and writes the
// response to w. It returns an error if the check failed.
func Probe(ctx context.Context, socket, path string, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Clean(socket))
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/"+strings.TrimPrefix(path, "/"), nil)
	if err != nil {
		return fmt.Errorf("--probe=%q: %w", path, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("--probe=%s: %w", path, err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(w, response.Body); err != nil {
		return fmt.Errorf("--probe=%s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("--probe=%s: %s", path, response.Status)
	}
	return nil
}
