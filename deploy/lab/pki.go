package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// Paths of the keys and certificates of the control plane.
const (
	caCert      = runDir + "/ca.crt"
	serverCert  = runDir + "/apiserver.crt"
	serverKey   = runDir + "/apiserver.key"
	accountKey  = runDir + "/service-account.key"
	tokenFile   = runDir + "/tokens.csv"
	adminConfig = runDir + "/admin.kubeconfig"
)

// makeKeys writes a certificate authority, the certificate of the API server, and the
// signing key of service account tokens.
func makeKeys() error {
	newKey := func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	ca, err := newKey()
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	server, err := newKey()
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	account, err := newKey()
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	valid := x509.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour)}
	root := valid
	root.SerialNumber, root.Subject = big.NewInt(1), pkix.Name{CommonName: "lab"}
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	leaf := valid
	leaf.SerialNumber, leaf.Subject = big.NewInt(2), pkix.Name{CommonName: "kube-apiserver"}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf.IPAddresses = []net.IP{controlPlaneAddr.AsSlice(), net.IPv4(127, 0, 0, 1)}
	leaf.DNSNames = []string{"localhost", "kubernetes.default.svc"}
	rootDER, err := x509.CreateCertificate(rand.Reader, &root, &root, &ca.PublicKey, ca)
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, &leaf, &root, &server.PublicKey, ca)
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	write := func(path, kind string, der []byte) {
		if err == nil {
			err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
	}
	writeKey := func(path string, key *ecdsa.PrivateKey) {
		der, encodeErr := x509.MarshalECPrivateKey(key)
		if err == nil {
			err = encodeErr
		}
		write(path, "EC PRIVATE KEY", der)
	}
	write(caCert, "CERTIFICATE", rootDER)
	write(serverCert, "CERTIFICATE", leafDER)
	writeKey(serverKey, server)
	writeKey(accountKey, account)
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	return nil
}
