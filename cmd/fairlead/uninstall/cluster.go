package uninstall

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// partOf selects the objects of the manifests (deploy/kustomization.yaml).
const partOf = "app.kubernetes.io/part-of=fairlead"

// systemNamespace is the namespace of the manifests. Other namespaces are found by
// their label. Labels in any other namespace are ignored: their tenants can set them.
const systemNamespace = objects.SystemNamespace

// resource is a kind of objects that the manifests create.
type resource struct {
	schema.GroupVersionResource
	kind      string
	namespace string // "" is the cluster
}

// workloadResources are those that run the controller and the speakers, in the order
// in which they are stopped: the speakers announce addresses until the controller,
// which could assign another one, has ended.
var workloadResources = []resource{
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "Deployment", systemNamespace},
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, "DaemonSet", systemNamespace},
}

var (
	crds       = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// objectResources are those of all other objects, in the order in which they are
// deleted. Objects in the namespaces of Fairlead are deleted with these.
var objectResources = []resource{
	{crds, "CustomResourceDefinition", ""},
	{rbac("clusterrolebindings"), "ClusterRoleBinding", ""},
	{rbac("clusterroles"), "ClusterRole", ""},
	{rbac("rolebindings"), "RoleBinding", metav1.NamespaceSystem},
	{admission("validatingadmissionpolicybindings"), "ValidatingAdmissionPolicyBinding", ""},
	{admission("validatingadmissionpolicies"), "ValidatingAdmissionPolicy", ""},
	{namespaces, "Namespace", ""},
}

func rbac(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: plural}
}

func admission(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: plural}
}

// installation is what of Fairlead is in a cluster.
type installation struct {
	services           []*corev1.Service // all of type LoadBalancer or with traces of Fairlead
	workloads, objects []object
	namespaces         []string
}

// object identifies an object that is deleted.
type object struct {
	resource
	name string
	uid  types.UID
}

func (o object) String() string {
	if o.namespace != "" {
		return o.kind + " " + o.namespace + "/" + o.name
	}
	return o.kind + " " + o.name
}

// Cluster is the cluster that Fairlead is removed from.
type Cluster struct {
	kube    kubernetes.Interface
	dynamic dynamic.Interface
}

// New returns the cluster of the configuration.
func New(restConfig *rest.Config) (*Cluster, error) {
	restConfig = rest.CopyConfig(restConfig)
	restConfig.QPS = -1 // API priority and fairness limits the rate, not the client
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("create API client: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("create API client: %w", err)
	}
	return &Cluster{kube, dynamicClient}, nil
}

// Plan returns what an uninstallation with the options changes. It only reads.
func (c *Cluster) Plan(ctx context.Context, o Options) (Plan, error) {
	found, err := c.findInstallation(ctx)
	if err != nil {
		return Plan{}, err
	}
	return newPlan(found, o), nil
}

func (c *Cluster) findInstallation(ctx context.Context) (found installation, err error) {
	labelled, err := c.listObjects(ctx, resource{namespaces, "Namespace", ""})
	if err != nil {
		return found, err
	}
	found.namespaces = []string{systemNamespace}
	for _, n := range labelled {
		if n.name != systemNamespace {
			found.namespaces = append(found.namespaces, n.name)
		}
	}
	for _, r := range workloadResources {
		for _, r.namespace = range found.namespaces {
			all, err := c.listObjects(ctx, r)
			if err != nil {
				return found, err
			}
			found.workloads = append(found.workloads, all...)
		}
	}
	for _, r := range objectResources {
		all, err := c.listObjects(ctx, r)
		if err != nil {
			return found, err
		}
		found.objects = append(found.objects, all...)
	}
	services, err := c.kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return found, fmt.Errorf("list Services: %w", err)
	}
	for i := range services.Items {
		found.services = append(found.services, &services.Items[i])
	}
	return found, nil
}

// listObjects returns the objects of a kind that belong to Fairlead: by their label,
// and CRDs by their group.
func (c *Cluster) listObjects(ctx context.Context, r resource) (all []object, err error) {
	options := metav1.ListOptions{LabelSelector: partOf}
	if r.GroupVersionResource == crds {
		options = metav1.ListOptions{}
	}
	list, err := c.dynamic.Resource(r.GroupVersionResource).Namespace(r.namespace).List(ctx, options)
	if apierrors.IsNotFound(err) { // the API server does not serve the kind
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", r.kind, err)
	}
	for _, o := range list.Items {
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		if r.GroupVersionResource == crds && group != v1alpha1.GroupVersion.Group {
			continue
		}
		all = append(all, object{r, o.GetName(), o.GetUID()})
	}
	return all, nil
}

// missingPermissions returns what the user must be allowed to do and is not.
func (c *Cluster) missingPermissions(ctx context.Context, p Plan) (missing []string, err error) {
	var required []authorizationv1.ResourceAttributes
	need := func(verb string, r resource) {
		plural, sub, _ := strings.Cut(r.Resource, "/")
		required = append(required, authorizationv1.ResourceAttributes{
			Verb: verb, Group: r.Group, Resource: plural, Subresource: sub, Namespace: r.namespace,
		})
	}
	core := func(plural string) resource {
		return resource{schema.GroupVersionResource{Version: "v1", Resource: plural}, "", ""}
	}
	need("patch", core("services/status"))
	if len(p.balancers) > 0 {
		need("patch", core("services"))
		need("get", core("services"))
	}
	for _, namespace := range p.found.namespaces {
		pods, leases := core("pods"), leaseResource
		pods.namespace, leases.namespace = namespace, namespace
		need("list", pods)
		need("list", leases)
	}
	for _, o := range slices.Concat(p.found.workloads, p.found.objects) {
		need("delete", o.resource)
		need("get", o.resource)
	}
	slices.SortFunc(required, func(a, b authorizationv1.ResourceAttributes) int {
		return strings.Compare(permission(a), permission(b))
	})
	for _, attributes := range slices.Compact(required) {
		review, err := c.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("check permissions: %w", err)
		}
		if !review.Status.Allowed {
			missing = append(missing, permission(attributes))
		}
	}
	return missing, nil
}

var leaseResource = resource{schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, "Lease", ""}

// permission describes a permission, such as "patch services/status".
func permission(a authorizationv1.ResourceAttributes) string {
	text := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		text += "/" + a.Subresource
	}
	if a.Group != "" {
		text += "." + a.Group
	}
	if a.Namespace != "" {
		text += " in namespace " + a.Namespace
	}
	return text
}
