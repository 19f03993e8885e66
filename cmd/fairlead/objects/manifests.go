package objects

import (
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// FromManifests reads manifests that are to be applied; "-" is stdin. Services
// without a namespace are in the given one. An unsupported kind, an unknown or
// duplicate field, a wrong type, a duplicate object, and a violation of the schema
// of one of Fairlead's kinds is an error that names the file, the document, the
// object and the field.
func FromManifests(paths []string, stdin io.Reader, namespace string) (*Collection, error) {
	d := decoder{strict: true, namespace: namespace, into: new(Collection)}
	for _, path := range paths {
		if err := d.readFile(path, stdin); err != nil {
			return nil, err
		}
	}
	return d.into, nil
}

// inManifests reports whether a manifest may contain objects of the kind.
func inManifests(o runtime.Object) bool {
	switch o.(type) {
	case *corev1.Service, *corev1.Namespace, *corev1.Node,
		*v1alpha1.IPAddressPool, *v1alpha1.L2Advertisement, *v1alpha1.BGPAdvertisement,
		*v1alpha1.BGPPeer, *v1alpha1.BFDProfile, *v1alpha1.Community:
		return true
	}
	return false
}
