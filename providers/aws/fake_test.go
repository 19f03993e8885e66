package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// fakeAWS is one AWS account in memory. It follows AWS's documentation where
// moto does not: delays, references between objects, quotas and errors. It
// replaces the network below the SDK's clients, so that their signing, retries
// and errors are real. Tests may change the fields between calls.
type fakeAWS struct {
	quota        fakeQuota
	provisioning int                 // number of descriptions of a new load balancer in the state provisioning
	lingering    int                 // number of deletions of security groups that fail because of a deleted load balancer's interfaces
	inUse        int                 // number of deletions of target groups that fail because of a deleted listener
	draining     int                 // number of descriptions that list a deregistered target
	unknown      int                 // number of calls for which a new security group or listener is unknown; 0 by default, since providers wait
	page         int                 // results per page
	unhealthy    map[string]bool     // instances whose health checks fail
	clusters     []string            // of the providers under test, which have the shipped IAM policy
	denied       map[string]bool     // actions that the policy lacks
	onCall       func(action string) // called after each call of the provider under test; may be nil

	// failCall decides how a call of the provider under test fails; nil is none.
	failCall func(ctx context.Context, action string) *faultKind

	t               *testing.T
	account, region string

	mu           sync.Mutex
	serial       int
	vpcs         []*fakeVPC
	subnets      []*ec2types.Subnet
	routes       []*ec2types.RouteTable
	instances    []*ec2types.Instance
	groups       []*fakeGroup
	addresses    map[string]bool
	certificates map[string]bool
	balancers    []*fakeBalancer
	listeners    []*fakeListener
	targets      []*fakeTargets
}

// fakeQuota has the quotas of the account.
type fakeQuota struct {
	balancers, listeners, targetGroups, targets, certificates int
	groups, rules, groupsPerBalancer, tags                    int
}

func newFake(t *testing.T, account, region string) *fakeAWS {
	return &fakeAWS{
		quota: fakeQuota{
			balancers: 50, listeners: 50, targetGroups: 3000, targets: 1000, certificates: 25,
			groups: 2500, rules: 60, groupsPerBalancer: 5, tags: 50,
		},
		provisioning: 2, lingering: 2, inUse: 1, draining: 2, page: 100,
		t: t, account: account, region: region,
		unhealthy: map[string]bool{}, addresses: map[string]bool{}, certificates: map[string]bool{},
	}
}

// awsError is an error of AWS.
type awsError struct {
	code, message string
}

func (e *awsError) Error() string { return e.code + ": " + e.message }

func newAWSError(code, format string, args ...any) error {
	return &awsError{code, fmt.Sprintf(format, args...)}
}

type (
	inputKey  struct{} // the input of the operation
	answerKey struct{} // an error for the real deserializer
)

type rawResponse struct {
	response *http.Response
	err      error
}

// loadOptions makes clients call the fake, through the callRecorder if there is one.
func (f *fakeAWS) loadOptions(w *callRecorder) config.LoadOptionsFunc {
	return config.WithAPIOptions([]func(*middleware.Stack) error{func(stack *middleware.Stack) error {
		keep := middleware.InitializeMiddlewareFunc("keep the input", func(
			ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
		) (middleware.InitializeOutput, middleware.Metadata, error) {
			return next.HandleInitialize(middleware.WithStackValue(ctx, inputKey{}, in.Parameters), in)
		})
		// A result is returned before the deserializer …
		answer := middleware.DeserializeMiddlewareFunc("answer", func(
			ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
		) (middleware.DeserializeOutput, middleware.Metadata, error) {
			output, raw := f.handleAttempt(ctx, w)
			if raw == nil {
				return middleware.DeserializeOutput{Result: output}, middleware.Metadata{}, nil
			}
			return next.HandleDeserialize(middleware.WithStackValue(ctx, answerKey{}, raw), in)
		})
		// … and an error after it, so that the deserializer converts it into the SDK's types.
		refuse := middleware.DeserializeMiddlewareFunc("refuse", func(
			ctx context.Context, _ middleware.DeserializeInput, _ middleware.DeserializeHandler,
		) (middleware.DeserializeOutput, middleware.Metadata, error) {
			raw := middleware.GetStackValue(ctx, answerKey{}).(*rawResponse)
			if raw.err != nil {
				return middleware.DeserializeOutput{}, middleware.Metadata{}, raw.err
			}
			return middleware.DeserializeOutput{RawResponse: &smithyhttp.Response{Response: raw.response}}, middleware.Metadata{}, nil
		})
		if err := stack.Initialize.Add(keep, middleware.After); err != nil {
			return err
		}
		if err := stack.Deserialize.Add(answer, middleware.Before); err != nil {
			return err
		}
		return stack.Deserialize.Add(refuse, middleware.After)
	}})
}

// handleAttempt handles one attempt of a client to call AWS.
func (f *fakeAWS) handleAttempt(ctx context.Context, w *callRecorder) (any, *rawResponse) {
	service := serviceELB
	if middleware.GetServiceID(ctx) == ec2.ServiceID {
		service = serviceEC2
	}
	if ctx.Err() != nil {
		return nil, &rawResponse{err: &smithy.CanceledError{Err: ctx.Err()}}
	}
	var failing *faultKind
	if w != nil {
		failing = w.record(service, middleware.GetOperationName(ctx))
		if f.failCall != nil && failing == nil {
			failing = f.failCall(ctx, middleware.GetOperationName(ctx))
		}
	}
	if failing == nil || failing.lost {
		output, err := f.runAction(middleware.GetStackValue(ctx, inputKey{}), w != nil)
		if w != nil && f.onCall != nil {
			f.onCall(middleware.GetOperationName(ctx))
		}
		switch refusal, _ := err.(*awsError); {
		case failing != nil:
		case err == nil:
			return output, nil
		case refusal != nil:
			return nil, &rawResponse{response: errorResponse(service, http.StatusBadRequest, refusal.code, refusal.message)}
		default:
			return nil, &rawResponse{err: err}
		}
	}
	response, err := failing.response(service)
	if err != nil {
		err = &smithyhttp.RequestSendError{Err: &url.Error{Op: "Post", URL: "https://" + service, Err: err}}
	}
	return nil, &rawResponse{response, err}
}

// runAction runs an action. The fake and its callers share no memory. The calls of a
// provider under test are restricted by its IAM policy.
func (f *fakeAWS) runAction(input any, restricted bool) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	input = deepCopy(input)
	var output any
	var err error
	operation := strings.TrimSuffix(reflectName(input), "Input")
	switch reflect.TypeOf(input).Elem().PkgPath() {
	case reflect.TypeFor[ec2.Client]().PkgPath():
		if restricted {
			err = f.authorize(serviceEC2, operation, input)
		}
		if err == nil {
			output, err = f.doEC2(input)
		}
	case reflect.TypeFor[elb.Client]().PkgPath():
		if restricted {
			err = f.authorize(serviceELB, operation, input)
		}
		if err == nil {
			output, err = f.doELB(input)
		}
	default:
		err = f.unknownAction(input)
	}
	if err != nil {
		return nil, err
	}
	return deepCopy(output), nil
}

// unknownAction reports an action that the fake does not implement.
func (f *fakeAWS) unknownAction(input any) error {
	f.t.Errorf("the fake does not implement %T", input)
	return newAWSError("InvalidAction", "the fake does not implement %T", input)
}

// deepCopy returns a deep copy of what x points to.
func deepCopy(x any) any {
	text, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	y := reflect.New(reflect.TypeOf(x).Elem()).Interface()
	if err := json.Unmarshal(text, y); err != nil {
		panic(err)
	}
	return y
}

// fingerprint returns the same text for equal settings.
func fingerprint(x any) string {
	text, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// newID returns an identifier in the format of AWS.
func (f *fakeAWS) newID(prefix string) string {
	f.serial++
	return fmt.Sprintf("%s%017x", prefix, f.serial)
}

func (f *fakeAWS) arn(kind string) string {
	return "arn:aws:elasticloadbalancing:" + f.region + ":" + f.account + ":" + kind
}

// pageOf returns the page of the results after the marker.
func pageOf[T any](f *fakeAWS, all []T, size *int32, marker *string) ([]T, *string, error) {
	from, length := 0, f.page
	if size != nil {
		length = min(length, int(*size))
	}
	if marker != nil {
		at, err := strconv.Atoi(*marker)
		if err != nil || at > len(all) {
			return nil, nil, newAWSError("ValidationError", "Invalid marker %s", *marker)
		}
		from = at
	}
	to := min(len(all), from+length)
	var next *string
	if to < len(all) {
		next = new(strconv.Itoa(to))
	}
	return all[from:to], next, nil
}

// fakeTime is the creation time of all objects.
var fakeTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
