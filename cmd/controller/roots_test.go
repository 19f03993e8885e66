package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// TestRoots: in an image without root certificates the public ones are known all
// the same. The system's are read once in a process, so that this needs another.
func TestRoots(t *testing.T) {
	const inside = "FAIRLEAD_TEST_WITHOUT_ROOTS"
	if os.Getenv(inside) == "" {
		self := exec.Command(os.Args[0], "-test.run=^TestRoots$", "-test.v")
		self.Env = append(os.Environ(), inside+"=1", "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent")
		if out, err := self.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	if roots.Equal(x509.NewCertPool()) {
		t.Error("there are no root certificates")
	}
}
