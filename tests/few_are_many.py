"""A pytest plugin for runs of tests: 20 orders in short chains; six make a large run; its progress is told often."""

from __future__ import annotations

from fixtures import exhaustive_plans, progress
from reports import allure_results

exhaustive_plans.ORDERS = exhaustive_plans.ORDERS[:20]
exhaustive_plans.ON_LINUX = 6
exhaustive_plans.CHAINS = (4,)
allure_results.MOST_SINGLE = 5
progress.TOLD_EVERY = 2.0
