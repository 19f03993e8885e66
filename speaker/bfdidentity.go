package speaker

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// identityWait is how long BFD sessions, with BGP peers and with other speakers, wait for
// their Secret after the start. BGP sessions do not wait for it.
const identityWait = 10 * time.Second

// bfdIdentity is whether BFD has the key of its discriminators; used by the sync loop
// only.
type bfdIdentity struct {
	decided bool   // from then on the key does not change
	problem string // why there is no key that the next speaker has, too
}

// identifyPaths passes the key in the Secret, which is nil if there is none, to BFD. It
// returns how long BFD waits for a valid one. Afterwards BFD uses a random key, and the
// next speaker cannot resume the sessions.
func (r *routingEngines) identifyPaths(node string, secret *corev1.Secret, waited time.Duration) time.Duration {
	if r.identity.decided {
		return 0
	}
	key, problem := bfdKey(secret)
	r.identity = bfdIdentity{decided: problem == "" || waited >= identityWait, problem: problem}
	switch {
	case problem == "":
		r.paths.Identify(node, key)
	case r.identity.decided:
		r.log.Warn("BFD sessions cannot be resumed after a restart", "reason", problem)
	default:
		return identityWait - waited
	}
	return 0
}

// bfdKey returns the key in the Secret, or why there is none.
func bfdKey(secret *corev1.Secret) (key []byte, problem string) {
	if secret == nil {
		return nil, fmt.Sprintf("Secret %q not found in Fairlead's namespace: the controller creates it", v1alpha1.BFDSecret)
	}
	if key = secret.Data[v1alpha1.BFDSecretKey]; len(key) < v1alpha1.BFDSecretLength {
		return nil, fmt.Sprintf("Secret %q: data[%s] must have at least %d bytes, but has %d",
			v1alpha1.BFDSecret, v1alpha1.BFDSecretKey, v1alpha1.BFDSecretLength, len(key))
	}
	return key, ""
}
