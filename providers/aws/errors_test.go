package aws

import (
	"context"
	"errors"
	"fmt"
	"go/build"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// retriedCodes are the codes of Elastic Load Balancing that no user can resolve:
// the next sync reads what has changed meanwhile, or a caller handles the code.
var retriedCodes = []string{
	"DuplicateListener", "HealthUnavailable", "InvalidTarget", "ListenerNotFound", "LoadBalancerNotFound", "PriorRequestNotComplete",
	"TargetGroupNotFound",
}

// uncalledCodes are the codes of actions and features that this package does not
// use: rules, trust stores, capacity reservations and resource policies.
var uncalledCodes = []string{
	"AssociationNotFound", "CaCertificatesBundleNotFound", "CapacityDecreaseRequestLimitExceeded", "CapacityReservationPending",
	"CapacityUnitsLimitExceeded", "DeleteAssociationSameAccount", "DuplicateTrustStoreName", "InsufficientCapacity",
	"InvalidCaCertificatesBundle", "InvalidLoadBalancerAction", "InvalidRevocationContent", "PriorityInUse", "ResourceNotFound",
	"RevocationContentNotFound", "RevocationIdNotFound", "RuleNotFound", "TooManyActions", "TooManyRules",
	"TooManyTrustStoreRevocationEntries", "TooManyTrustStores", "TrustStoreInUse", "TrustStoreNotFound", "TrustStoreNotReady",
}

// TestErrorCodes checks that each error code that the SDK has for Elastic Load
// Balancing is in exactly one list, so that a new version of the SDK requires a
// decision about its new codes.
func TestErrorCodes(t *testing.T) {
	p, err := build.Import("github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types", ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(p.Dir, "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	modelled := regexp.MustCompile(`ErrorCodeOverride == nil \{\s+return "([^"]+)"`).FindAllSubmatch(source, -1)
	if len(modelled) < 50 {
		t.Fatalf("the source has %d codes only", len(modelled))
	}
	count := map[string]int{}
	for _, codes := range append([][]string{retriedCodes, uncalledCodes}, reasonLists()...) {
		for _, code := range codes {
			count[code]++
		}
	}
	for _, m := range modelled {
		if code := string(m[1]); count[code] == 0 {
			t.Errorf("%s is in no list", code)
		}
	}
	for code, n := range count {
		if n > 1 {
			t.Errorf("%s is in %d lists", code, n)
		}
	}
}

func reasonLists() (all [][]string) {
	for _, codes := range reasonCodes {
		all = append(all, codes)
	}
	return all
}

// TestReasonsOfErrors checks that a failed call has a reason if a user can resolve
// it, and none otherwise, whichever the action is.
func TestReasonsOfErrors(t *testing.T) {
	a := fakeAccount(t)
	for code, reason := range map[string]v1alpha1.Reason{
		"ExpiredTokenException":     v1alpha1.PermissionDenied,
		"RequestExpired":            v1alpha1.PermissionDenied,
		"UnsupportedCertificate":    v1alpha1.InvalidRequest,
		"ALPNPolicyNotFound":        v1alpha1.InvalidRequest,
		"ResourceInUse":             v1alpha1.InvalidRequest,
		"DuplicateLoadBalancerName": v1alpha1.NameTaken,
		"DuplicateTargetGroupName":  v1alpha1.NameTaken,
		"InvalidVpcID.NotFound":     v1alpha1.CloudNotConfigured,
		"PriorRequestNotComplete":   "",
	} {
		a.fail(fault{action: "CreateTargetGroup", times: maxAttempts, kind: clientError(code)})
		_, err := a.newProvider(t).EnsureLoadBalancer(t.Context(), a.cluster, newService("web", 80), a.nodes)
		var refusal *v1alpha1.Refusal
		switch {
		case reason == "":
			if err == nil || errors.As(err, &refusal) {
				t.Errorf("%s: got %v", code, err)
			}
		case !errors.As(err, &refusal) || refusal.Reason != reason ||
			!strings.HasPrefix(refusal.Message, "CreateTargetGroup: "+code+": injected"):
			t.Errorf("%s: got %v", code, err)
		}
		a.reset()
	}
}

// TestNoCredentials checks that missing and refused credentials have a reason, and a
// message that is the same for each call.
func TestNoCredentials(t *testing.T) {
	a := fakeAccount(t)
	withoutIdentity := func(o *Options) {
		o.Load = slices.Concat(o.Load[1:], []func(*config.LoadOptions) error{config.WithRegion(a.region)})
	}
	const remedy = "; associate the controller with a role that has the policy of docs/aws.md: " +
		"by EKS Pod Identity, IRSA, or the instance profile of its node (hop limit 2)"
	for name, row := range map[string]struct{ environment, value, message string }{
		"none": {
			"AWS_PROFILE", "", "DescribeLoadBalancers: no credentials: GetMetadata: failed: " +
				`access disabled to EC2 IMDS via client option, or "AWS_EC2_METADATA_DISABLED" environment variable` + remedy,
		},
		"IRSA without a token": {
			"AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token", "DescribeLoadBalancers: no credentials: failed: " +
				"failed to refresh cached credentials, failed to retrieve jwt from provide source, " +
				"unable to read file at /nonexistent/token: open /nonexistent/token: no such file or directory" + remedy,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/fairlead")
			t.Setenv(row.environment, row.value)
			_, err := a.newProvider(t, withoutIdentity).EnsureLoadBalancer(t.Context(), a.cluster, newService("web", 80), a.nodes)
			var refusal *v1alpha1.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied || refusal.Message != row.message {
				t.Errorf("got %v, not %s", err, row.message)
			}
		})
	}
}

const leftGroups = "; the target groups and security groups that were created stay until the next sync or the deletion of the Service"

// TestRefusedLate checks that the Refusal of a call has what exists meanwhile, if
// anything does, and is the same after each retry.
func TestRefusedLate(t *testing.T) {
	for action, what := range map[string]string{
		"DescribeInstances": "", "CreateSecurityGroup": "", "CreateTargetGroup": leftGroups, "CreateLoadBalancer": leftGroups,
		"CreateListener": "; existing meanwhile, and billed: load balancer ",
	} {
		t.Run(action, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				c, s := a.newProvider(t), newService("web", 80)
				want := action + ": AccessDenied: injected by the test" + what
				if action == "CreateListener" {
					want += c.names.firstName(s.UID)
				}
				a.fail(fault{action: action, times: forever, kind: clientError("AccessDenied")})
				for range 2 {
					var refusal *v1alpha1.Refusal
					_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
					if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied || refusal.Message != want {
						t.Errorf("got %v, not %s", err, want)
					}
				}
			})
		})
	}
}

// TestFullSecurityGroups checks that the message has the group that is full. moto does
// not limit the rules of a group.
func TestFullSecurityGroups(t *testing.T) {
	for owner, rules := range map[string]int{"Service": 1, "nodes": 2} {
		a := fakeAccount(t)
		c, s := a.newProvider(t), newService("web", 80)
		a.fake.quota.rules = rules
		var refusal *v1alpha1.Refusal
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		id := a.nodeGroup
		if owner == "Service" {
			id = *a.groups(t)[1].GroupId
		}
		want := "security group " + id + " of the " + owner + " is full: remove rules from it, or raise the quota of inbound rules " +
			"per security group (AuthorizeSecurityGroupIngress: RulesPerSecurityGroupLimitExceeded: " +
			"The maximum number of rules per security group has been reached.)" + leftGroups
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.QuotaExceeded || refusal.Message != want {
			t.Errorf("got %v, not %s", err, want)
		}
	}
}

// TestRefusedNodeRules checks that a refused change of the nodes' security groups, which all
// Services need, is repeated with a backoff of its own.
func TestRefusedNodeRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := fakeAccount(t)
		c, refused := a.newProvider(t), 0
		c.sharedGroup.retry = minCheckRetry
		kind := clientError("RulesPerSecurityGroupLimitExceeded")
		a.fake.failCall = func(ctx context.Context, action string) *faultKind {
			if action == "AuthorizeSecurityGroupIngress" && flowOf(ctx) == "" {
				refused++
				return &kind
			}
			return nil
		}
		syncAll := func() {
			for i := range 20 {
				var refusal *v1alpha1.Refusal
				_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, newService(fmt.Sprint("web-", i), 80), a.nodes)
				if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Message, "security group "+a.nodeGroup+" of the nodes is full") {
					t.Errorf("got %v", err)
				}
			}
		}
		for _, wait := range []time.Duration{0, minCheckRetry - 1, 1, minCheckRetry, minCheckRetry} {
			time.Sleep(wait)
			syncAll()
		}
		if refused != 3 {
			t.Errorf("%d calls were refused", refused)
		}
		a.fake.failCall = nil
		time.Sleep(maxCheckRetry)
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, newService("web-0", 80), a.nodes); err != nil {
			t.Error(err)
		}
	})
}
