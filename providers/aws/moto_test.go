package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startMoto starts moto's server for the first test that needs it. The kernel
// kills it with this process.
var startMoto = sync.OnceValues(func() (*url.URL, error) {
	program := os.Getenv("FAIRLEAD_MOTO")
	if program == "" {
		found, err := exec.LookPath("moto_server")
		if err != nil {
			return nil, fmt.Errorf("no AWS emulator: %w; pip install 'moto[server]', or set FAIRLEAD_MOTO", err)
		}
		program = found
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, err
	}
	if err := listener.Close(); err != nil {
		return nil, err
	}
	var output bytes.Buffer
	cmd := exec.Command(program, "-H", "127.0.0.1", "-p", port)
	cmd.Stderr = &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended := make(chan error, 1)
	go func() {
		// Pdeathsig depends on the thread that starts the child, which must not end.
		runtime.LockOSThread()
		ended <- cmd.Run()
	}()
	server := &url.URL{Scheme: "http", Host: "127.0.0.1:" + port}
	for range 600 {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s ended: %w: %s", program, err, output.String())
		case <-time.After(100 * time.Millisecond):
		}
		if answer, err := http.Get(server.String() + "/moto-api/data.json"); err == nil {
			return server, answer.Body.Close()
		}
	}
	return nil, fmt.Errorf("%s does not answer on %s after a minute", program, server)
})

// moto returns the emulator's address, and skips the test if the program is not
// installed.
func moto(t *testing.T) *url.URL {
	t.Helper()
	server, err := startMoto()
	requireProgram(t, err)
	return server
}

// requireProgram skips the test if there is an error, that of a program which is not
// installed.
func requireProgram(t *testing.T, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("FAIRLEAD_NO_SKIP") == "1":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// motoCertificate calls the emulator's certificate service without an SDK
// client, which is not linked.
func motoCertificate(t *testing.T, account, region, domain string) string {
	t.Helper()
	server := moto(t)
	body, err := json.Marshal(map[string]string{"DomainName": domain})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, server.String(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", "CertificateManager.RequestCertificate")
	request.Header.Set(
		"Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+region+"/acm/aws4_request, SignedHeaders=host, Signature=test",
	)
	request.Header.Set("x-moto-account-id", account)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	var made map[string]string
	if err := json.NewDecoder(answer.Body).Decode(&made); err != nil || made["CertificateArn"] == "" {
		t.Fatalf("request a certificate for %s: %s: %v %v", domain, answer.Status, made, err)
	}
	return made["CertificateArn"]
}
