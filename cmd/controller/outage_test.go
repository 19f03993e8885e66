package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	appconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/klog/v2"

	"github.com/fairlead-io/fairlead/config/client"
)

// TestOutageLog checks that an outage is logged once for all clients of the framework and
// of the controller, that the requests that fail meanwhile are not logged, and that the
// format and the levels of klog stay.
func TestOutageLog(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // connections to its address are refused
	config := &rest.Config{Host: "http://" + l.Addr().String()}
	first, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	second, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "stderr")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stderr := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = stderr }()
	t.Cleanup(klog.ClearLogger)

	monitorAPIServer((&appconfig.Config{Client: first, VersionedClient: second, Kubeconfig: config}).Complete())
	third, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(logr.ToSlogHandler(klog.Background()))
	for range 2 {
		_, a := first.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		_, b := second.CoordinationV1().Leases("").List(t.Context(), metav1.ListOptions{})
		_, c := third.Pools.List(t.Context(), metav1.ListOptions{})
		klog.ErrorS(a, "omitted")
		klog.InfoS("omitted", "err", fmt.Errorf("list: %w", b))
		klog.Background().Error(c, "omitted")
		log.Warn("omitted", "error", errors.Join(a, b, c))
	}
	klog.Infof("formatted %d", 1)
	klog.InfoS("structured", "key", "value")
	klog.V(4).InfoS("too detailed")
	klog.Background().V(4).Info("too detailed")
	log.Debug("too detailed")
	log.Warn("another", "error", errors.New("forbidden"))
	klog.Flush()

	out, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, want := range []struct{ level, text string }{
		{"W", `] "API server unreachable" host="` + l.Addr().String() + `" error="dial tcp`},
		{"I", `] formatted 1`},
		{"I", `outage_test.go:`},
		{"W", `] "another" error="forbidden"`},
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want.level) || !strings.Contains(lines[i], want.text) {
			t.Errorf("line %d does not start with %s and contain %s", i, want.level, want.text)
		}
	}
	if len(lines) != 4 || !bytes.Contains(out, []byte(`] "structured" key="value"`)) {
		t.Errorf("logged:\n%s", out)
	}
}
